-- What the detectors found in the log, who was told of it, and what people said to it.

CREATE TABLE ai_anomalies (
    id              uuid PRIMARY KEY,
    model_id        text,
    kind            text NOT NULL,
    metric          text NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('low', 'medium', 'high')),
    score           double precision NOT NULL,
    started_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    observed        double precision NOT NULL,
    expected        double precision NOT NULL,
    detector        text NOT NULL CHECK (detector IN ('rules', 'adaptive')),
    bucket_s        double precision NOT NULL,
    evidence        jsonb NOT NULL DEFAULT '[]',
    contributions   jsonb NOT NULL DEFAULT '[]',
    example_ids     uuid[] NOT NULL DEFAULT '{}',
    detected_at     timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    acknowledged_by text,
    note            text,
    CHECK (ended_at >= started_at)
);

-- Found again is no second anomaly.
CREATE UNIQUE INDEX ai_anomalies_what ON ai_anomalies
    (coalesce(model_id, ''), kind, metric, started_at);
CREATE INDEX ai_anomalies_started_at ON ai_anomalies (started_at);

CREATE TABLE ai_anomaly_notices (
    anomaly_id uuid NOT NULL REFERENCES ai_anomalies ON DELETE CASCADE,
    watcher    text NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    sent_at    timestamptz,
    PRIMARY KEY (anomaly_id, watcher)
);

COMMENT ON TABLE ai_anomalies IS 'Anomalies of the log (lab.anomalies, novellus watch), one row an event of one metric and model';
COMMENT ON COLUMN ai_anomalies.model_id IS 'ai_requests.model; NULL: all models together';
COMMENT ON COLUMN ai_anomalies.score IS '0 to 1; 0.5 just is an anomaly';
COMMENT ON COLUMN ai_anomalies.ended_at IS 'The first quiet moment; NULL: it went on when it was last looked at';
COMMENT ON COLUMN ai_anomalies.observed IS 'The worst of it, in the unit of its metric';
COMMENT ON COLUMN ai_anomalies.expected IS 'What is usual at that time, in the same unit';
COMMENT ON COLUMN ai_anomalies.detector IS 'Whose figures these are; evidence names all that saw it';
COMMENT ON COLUMN ai_anomalies.bucket_s IS 'Seconds of the log in one point of the series that it was seen in';
COMMENT ON COLUMN ai_anomalies.contributions IS 'By model, route, tag, ...: what carries the change (novellus_lab.monitoring.contributions)';
COMMENT ON COLUMN ai_anomalies.example_ids IS 'ai_requests.id of those that show it best';
COMMENT ON COLUMN ai_anomalies.updated_at IS 'When it was last found';
COMMENT ON TABLE ai_anomaly_notices IS 'Which watcher told of which anomaly, so that of many processes one does';
COMMENT ON COLUMN ai_anomaly_notices.sent_at IS 'NULL: somebody is at it; long after claimed_at, somebody else may';
