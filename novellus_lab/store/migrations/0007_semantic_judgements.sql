-- What is known of how often the semantic cache is wrong: calibrations before, judgements after.

CREATE TABLE ai_cache_calibrations (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at      timestamptz NOT NULL DEFAULT now(),
    decided_by      text NOT NULL,
    max_error_rate  double precision NOT NULL,
    threshold       double precision NOT NULL,
    calibration     jsonb NOT NULL
);

CREATE INDEX ai_cache_calibrations_latest
    ON ai_cache_calibrations (decided_by, max_error_rate, created_at DESC);

CREATE TABLE ai_cache_judgements (
    request_id  uuid PRIMARY KEY,
    judged_at   timestamptz NOT NULL DEFAULT now(),
    judged_by   text NOT NULL,
    fits        boolean NOT NULL,
    question    text NOT NULL,
    source      text NOT NULL,
    why         text
);

COMMENT ON TABLE ai_cache_calibrations IS 'Score thresholds of the semantic cache, found on labelled pairs; the latest of its kind is in force';
COMMENT ON COLUMN ai_cache_calibrations.decided_by IS 'Rule, static vectors and encoder whose scores it stands on';
COMMENT ON TABLE ai_cache_judgements IS 'Semantic hits that were served, sampled and judged';
COMMENT ON COLUMN ai_cache_judgements.request_id IS 'ai_requests.id of the hit';
COMMENT ON COLUMN ai_cache_judgements.fits IS 'Whether the answer serves the question as well as the one it was made for';
COMMENT ON COLUMN ai_cache_judgements.source IS 'The question that the answer was made for';
