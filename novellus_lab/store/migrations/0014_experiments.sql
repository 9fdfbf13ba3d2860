-- Experiments, what was observed in them, and how good answers were.

CREATE TABLE ai_experiments (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    label      text NOT NULL UNIQUE,
    kind       text NOT NULL CHECK (kind IN ('comparison', 'live', 'benchmark')),
    status     text NOT NULL CHECK (status IN ('running', 'done', 'stopped', 'failed')),
    design     jsonb NOT NULL,
    verdict    text,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);

CREATE INDEX ai_experiments_live ON ai_experiments (started_at) WHERE kind = 'live' AND ended_at IS NULL;

CREATE TABLE ai_experiment_observations (
    experiment_id uuid NOT NULL REFERENCES ai_experiments ON DELETE CASCADE,
    number        int NOT NULL,
    arm           text NOT NULL,
    request_id    uuid,
    observation   jsonb NOT NULL,
    PRIMARY KEY (experiment_id, number, arm)
);

CREATE TABLE ai_scores (
    request_id uuid NOT NULL,
    scorer     text NOT NULL,
    value      double precision NOT NULL CHECK (value BETWEEN 0 AND 1),
    reason     text,
    cost_usd   numeric,
    scored_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_id, scorer)
);

COMMENT ON TABLE ai_experiments IS 'One row a comparison, an experiment on live traffic, or a run of a benchmark';
COMMENT ON COLUMN ai_experiments.label IS 'What its requests have as ai_requests.experiment';
COMMENT ON COLUMN ai_experiments.design IS 'Arms, workload and its hash, scorer, metric, level, seed, cap; for live ones, unit and shares';
COMMENT ON TABLE ai_experiment_observations IS 'What came of asking an item in an arm; the texts are in ai_requests alone';
COMMENT ON TABLE ai_scores IS 'How good an answer was, 0 to 1, by scorer: experiments, judges, thumbs';
COMMENT ON COLUMN ai_scores.request_id IS 'ai_requests.id';
COMMENT ON COLUMN ai_scores.cost_usd IS 'US dollars that scoring cost; NULL: unknown';
