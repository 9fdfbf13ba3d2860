-- Cached answers, shared by every process on this database.

CREATE TABLE ai_response_cache (
    cache_key         bytea PRIMARY KEY,
    kind              text NOT NULL CHECK (kind IN ('chat', 'embedding', 'value')),
    model             text NOT NULL,
    provider          text NOT NULL,
    prompt            text,
    -- json, not jsonb: an answer must come back to the last character, and jsonb can't hold NUL.
    response          json NOT NULL,
    cost_usd          numeric,
    latency_ms        double precision,
    source_request_id uuid,
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz,
    tags              jsonb NOT NULL DEFAULT '{}',
    hits              bigint NOT NULL DEFAULT 0,
    last_hit_at       timestamptz,
    embedding         vector,
    embedding_model   text
);

CREATE INDEX ai_response_cache_expires_at ON ai_response_cache (expires_at)
    WHERE expires_at IS NOT NULL;

COMMENT ON TABLE ai_response_cache IS 'Cached responses; the exact cache reads by key, the semantic cache by embedding';
COMMENT ON COLUMN ai_response_cache.cache_key IS 'blake2b-256 of scope, parameters and messages (novellus_lab.cache.key)';
COMMENT ON COLUMN ai_response_cache.prompt IS 'Text of the last user turn; NULL when content logging is off';
COMMENT ON COLUMN ai_response_cache.response IS 'The entry as JSON (novellus_lab.cache.entry.CacheEntry)';
COMMENT ON COLUMN ai_response_cache.cost_usd IS 'What making the answer cost, in US dollars; NULL if unknown';
COMMENT ON COLUMN ai_response_cache.latency_ms IS 'How long the provider took to make it, in milliseconds';
COMMENT ON COLUMN ai_response_cache.source_request_id IS 'ai_requests.id of the request that made it';
COMMENT ON COLUMN ai_response_cache.kind IS 'chat and embedding: answers of models; value: put in by lab.cache.set';
COMMENT ON COLUMN ai_response_cache.tags IS 'Tags of the request that made it: entries can be invalidated by them';
COMMENT ON COLUMN ai_response_cache.hits IS 'Times served after it was made, from any tier (written with a delay)';
COMMENT ON COLUMN ai_response_cache.embedding_model IS 'Name of the model that made the embedding; vectors of two models are never compared';
