-- Queued requests and their results, the workers that run them; and conversations.
-- What delivers a job to a worker lives apart, in the schema novellus_queue (novellus_lab.queue.delivery).

CREATE TABLE ai_jobs (
    id           uuid PRIMARY KEY,
    queue        text NOT NULL,
    priority     int NOT NULL,
    status       text NOT NULL DEFAULT 'queued'
                 CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    -- json, not jsonb: texts must come back to the last character, and jsonb can't hold NUL.
    request      json,
    max_attempts int NOT NULL,
    attempts     int NOT NULL DEFAULT 0,
    delivery_id  bigint,
    request_id   uuid UNIQUE,
    worker       text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    scheduled_at timestamptz,
    started_at   timestamptz,
    finished_at  timestamptz,
    result       json,
    error        json
);

CREATE INDEX ai_jobs_open ON ai_jobs (queue, status) WHERE finished_at IS NULL;
CREATE INDEX ai_jobs_finished_at ON ai_jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE ai_queue_workers (
    id          uuid PRIMARY KEY,
    host        text NOT NULL,
    pid         int NOT NULL,
    queues      text[],
    concurrency int NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ai_sessions (
    id         text PRIMARY KEY,
    system     text,
    turns      bigint NOT NULL DEFAULT 0,
    cost_usd   numeric NOT NULL DEFAULT 0,
    unpriced   bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ai_session_turns (
    session_id text NOT NULL REFERENCES ai_sessions ON DELETE CASCADE,
    position   bigint NOT NULL,
    request_id uuid NOT NULL,
    messages   json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, position)
);

COMMENT ON TABLE ai_jobs IS 'Requests that workers run (novellus worker), and what came of them';
COMMENT ON COLUMN ai_jobs.priority IS 'Higher is sooner';
COMMENT ON COLUMN ai_jobs.request IS 'Arguments of Lab.complete; NULL once it is done or cancelled. Here whether or not content is logged';
COMMENT ON COLUMN ai_jobs.attempts IS 'Runs that were begun; one that a stopping worker gave back does not count';
COMMENT ON COLUMN ai_jobs.delivery_id IS 'novellus_queue.procrastinate_jobs.id';
COMMENT ON COLUMN ai_jobs.request_id IS 'ai_requests.id of the latest run, written before it is begun: by it an answer is found whose worker died';
COMMENT ON COLUMN ai_jobs.scheduled_at IS 'Not before this time; NULL: at once. Of a job that failed, the time of its next run';
COMMENT ON COLUMN ai_jobs.result IS 'The Completion as JSON (novellus_lab.queue.answers)';
COMMENT ON COLUMN ai_jobs.error IS 'Of the latest run that failed';
COMMENT ON TABLE ai_queue_workers IS 'Workers that are alive: those with a recent seen_at';
COMMENT ON COLUMN ai_queue_workers.queues IS 'NULL: all';
COMMENT ON TABLE ai_sessions IS 'Conversations (Lab.session)';
COMMENT ON COLUMN ai_sessions.turns IS 'Turns ever added, cleared ones too: the position of the latest';
COMMENT ON COLUMN ai_sessions.cost_usd IS 'US dollars of all turns whose cost is known, cleared ones too';
COMMENT ON COLUMN ai_sessions.unpriced IS 'Turns whose cost is not known';
COMMENT ON TABLE ai_session_turns IS 'What was said and what was answered, one row for both; here whether or not content is logged';
COMMENT ON COLUMN ai_session_turns.messages IS 'In OpenAI''s form, the answer last';
