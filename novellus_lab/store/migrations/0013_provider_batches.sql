-- Many requests handed over to the batch APIs of providers: what was asked, how far it is, what came of it.

CREATE TABLE ai_provider_batches (
    id         uuid PRIMARY KEY,
    requests   int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);

CREATE TABLE ai_provider_batch_parts (
    id                uuid PRIMARY KEY,
    batch_id          uuid NOT NULL REFERENCES ai_provider_batches ON DELETE CASCADE,
    model_id          text NOT NULL,
    provider          text NOT NULL,
    requests          int NOT NULL,
    status            text NOT NULL DEFAULT 'prepared'
                      CHECK (status IN ('prepared', 'submitting', 'running', 'cancelling', 'ended')),
    provider_batch_id text,
    completed         int NOT NULL DEFAULT 0,
    failed            int NOT NULL DEFAULT 0,
    cancel_asked      boolean NOT NULL DEFAULT false,
    submitted_at      timestamptz,
    checked_at        timestamptz,
    expires_at        timestamptz,
    ended_at          timestamptz,
    UNIQUE (provider, provider_batch_id)
);

CREATE INDEX ai_provider_batch_parts_batch ON ai_provider_batch_parts (batch_id);

CREATE TABLE ai_provider_batch_items (
    batch_id    uuid NOT NULL REFERENCES ai_provider_batches ON DELETE CASCADE,
    position    int NOT NULL,
    part_id     uuid REFERENCES ai_provider_batch_parts ON DELETE CASCADE,
    waits_for   uuid,
    request_id  uuid NOT NULL UNIQUE,
    attempt_id  uuid NOT NULL,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'done', 'failed')),
    cache_key   bytea,
    -- json, not jsonb: texts must come back to the last character, and jsonb can't hold NUL.
    request     json,
    dropped     text[] NOT NULL DEFAULT '{}',
    result      json,
    error       json,
    finished_at timestamptz,
    PRIMARY KEY (batch_id, position)
);

CREATE INDEX ai_provider_batch_items_part ON ai_provider_batch_items (part_id)
    WHERE status = 'open';
CREATE INDEX ai_provider_batch_items_key ON ai_provider_batch_items (cache_key)
    WHERE status = 'open' AND part_id IS NOT NULL;

COMMENT ON TABLE ai_provider_batches IS 'Batches at providers (lab.batch(provider_batch=True), lab.queue.submit_batch)';
COMMENT ON COLUMN ai_provider_batches.ended_at IS 'When the last of its requests had an answer or an error';
COMMENT ON TABLE ai_provider_batch_parts IS 'What a provider got in one piece: one row a batch of its own';
COMMENT ON COLUMN ai_provider_batch_parts.id IS 'Told to the provider, where its API keeps such a mark: by it a batch is found of whose acceptance nothing was heard';
COMMENT ON COLUMN ai_provider_batch_parts.status IS 'prepared: surely nothing was sent. submitting: it may have been; it is looked for, never sent again';
COMMENT ON COLUMN ai_provider_batch_parts.completed IS 'As the provider last said';
COMMENT ON TABLE ai_provider_batch_items IS 'One request each; its row in ai_requests is written when it ends';
COMMENT ON COLUMN ai_provider_batch_items.part_id IS 'NULL: it was never handed over: the cache answered it, it was refused, or it waits for another';
COMMENT ON COLUMN ai_provider_batch_items.waits_for IS 'request_id of an equal request that is under way: its answer is this one''s too';
COMMENT ON COLUMN ai_provider_batch_items.attempt_id IS 'ai_request_attempts.id, and of what is reserved in the budgets';
COMMENT ON COLUMN ai_provider_batch_items.request IS 'Arguments of Lab.complete; NULL once it has ended. Here whether or not content is logged';
COMMENT ON COLUMN ai_provider_batch_items.result IS 'The Completion as JSON (novellus_lab.queue.answers)';
