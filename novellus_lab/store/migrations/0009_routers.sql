-- Routers that were trained: the newest of a name decides, the older ones are its history.

CREATE TABLE ai_routers (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL,
    weak_model   text NOT NULL,
    strong_model text NOT NULL,
    learner      text NOT NULL,
    outcomes     int NOT NULL,
    apgr         double precision,
    apgr_low     double precision,
    apgr_high    double precision,
    informative  boolean NOT NULL,
    trained_at   timestamptz NOT NULL,
    -- json, not jsonb: its numbers must come back to the last digit.
    router       json NOT NULL
);

CREATE INDEX ai_routers_name ON ai_routers (name, id);

COMMENT ON TABLE ai_routers IS 'Trained routers (lab.router.train), one row a training; the newest of a name is used';
COMMENT ON COLUMN ai_routers.apgr IS 'Average performance gap recovered, out of fold; 0.5 is a coin; apgr_low and apgr_high bound it at 95 %';
COMMENT ON COLUMN ai_routers.informative IS 'Whether it is better than chance';
COMMENT ON COLUMN ai_routers.router IS 'The router as JSON (novellus_lab.routing.learned.TrainedRouter); no prompt is in it';
