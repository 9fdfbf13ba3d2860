-- The log: one row a request, one row a provider call, partitioned by month.

CREATE TABLE ai_requests (
    id                     uuid NOT NULL,
    created_at             timestamptz NOT NULL,
    kind                   text NOT NULL,
    stream                 boolean NOT NULL,
    status                 text NOT NULL,
    error_class            text,
    error_message          text,
    requested_model        text,
    picked_model           text,
    model                  text,
    provider               text,
    response_model         text,
    strategy               text,
    rule                   text,
    candidates             jsonb,
    propensity             double precision,
    cache                  text NOT NULL,
    cache_key              bytea,
    cache_similarity       double precision,
    cache_source_id        uuid,
    input_tokens           bigint,
    output_tokens          bigint,
    cached_input_tokens    bigint,
    cache_write_tokens     bigint,
    cache_write_1h_tokens  bigint,
    reasoning_tokens       bigint,
    input_audio_tokens     bigint,
    cached_audio_tokens    bigint,
    output_audio_tokens    bigint,
    output_image_tokens    bigint,
    web_searches           bigint,
    usage_estimated        boolean,
    raw_usage              jsonb,
    price_version          text,
    cost_usd               numeric,
    fees_usd               numeric,
    uncached_cost_usd      numeric,
    latency_ms             double precision,
    ttft_ms                double precision,
    queue_ms               double precision,
    route_ms               double precision,
    provider_ms            double precision,
    overhead_ms            double precision,
    original_latency_ms    double precision,
    tags                   jsonb,
    session_id             text,
    experiment             text,
    arm                    text,
    priority               text,
    prompt_hash            bytea,
    params                 jsonb,
    dropped_params         text[],
    finish_reason          text,
    messages               jsonb,
    response               text,
    tool_calls             jsonb,
    attempts               int NOT NULL,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

-- Few indexes: each costs every request. Ids are time-ordered, so the key is append-only.
CREATE INDEX ai_requests_model_created_at ON ai_requests (model, created_at);
CREATE INDEX ai_requests_created_at ON ai_requests USING brin (created_at);
CREATE INDEX ai_requests_session ON ai_requests (session_id, created_at)
    WHERE session_id IS NOT NULL;
CREATE INDEX ai_requests_experiment ON ai_requests (experiment, arm, created_at)
    WHERE experiment IS NOT NULL;

CREATE TABLE ai_requests_default PARTITION OF ai_requests DEFAULT;

CREATE TABLE ai_request_attempts (
    id                     uuid NOT NULL,
    request_id             uuid NOT NULL,
    number                 int NOT NULL,
    role                   text NOT NULL,
    model_id               text NOT NULL,
    provider               text NOT NULL,
    started_at             timestamptz NOT NULL,
    status                 text NOT NULL,
    latency_ms             double precision NOT NULL,
    ttft_ms                double precision,
    input_tokens           bigint,
    output_tokens          bigint,
    cached_input_tokens    bigint,
    cache_write_tokens     bigint,
    cache_write_1h_tokens  bigint,
    reasoning_tokens       bigint,
    input_audio_tokens     bigint,
    cached_audio_tokens    bigint,
    output_audio_tokens    bigint,
    output_image_tokens    bigint,
    web_searches           bigint,
    usage_estimated        boolean,
    raw_usage              jsonb,
    cost_usd               numeric,
    fees_usd               numeric,
    price_version          text,
    unpriced_reason        text,
    price_lines            jsonb,
    response_model         text,
    response_id            text,
    error_class            text,
    error_message          text,
    status_code            int,
    retry_after_s          double precision,
    PRIMARY KEY (id, started_at)
) PARTITION BY RANGE (started_at);

CREATE INDEX ai_request_attempts_request_id ON ai_request_attempts (request_id);

CREATE TABLE ai_request_attempts_default PARTITION OF ai_request_attempts DEFAULT;

-- How far into each spool file the log has come: committed together with the rows themselves, so
-- that no row is lost or entered twice, whatever ends when.
CREATE TABLE ai_log_segments (
    segment          uuid PRIMARY KEY,
    committed_offset bigint NOT NULL,
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- Called by every log writer now and then. It must not hold the log up: where somebody else is at it,
-- or a long query keeps the table, a later call makes the partition, months ahead of its need.
CREATE FUNCTION novellus_ensure_partitions(months_ahead int DEFAULT 2) RETURNS void
LANGUAGE plpgsql
SET search_path = public, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
    parent text;
    start  timestamp;
    part   text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1313821783) THEN
        RETURN;
    END IF;
    FOREACH parent IN ARRAY ARRAY['ai_requests', 'ai_request_attempts'] LOOP
        FOR ahead IN 0..months_ahead LOOP
            start := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead);
            part := parent || to_char(start, '_YYYY_MM');
            IF to_regclass(part) IS NULL THEN
                BEGIN
                    EXECUTE format(
                        'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                        part, parent, start AT TIME ZONE 'UTC',
                        (start + interval '1 month') AT TIME ZONE 'UTC');
                EXCEPTION WHEN check_violation OR lock_not_available THEN
                    -- Rows of that month are in the default partition already: they stay there.
                    NULL;
                END;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

SELECT novellus_ensure_partitions();

COMMENT ON TABLE ai_requests IS 'One row a request, whatever its end: ok, error, cancelled, refused; cached or not';
COMMENT ON COLUMN ai_requests.id IS 'UUIDv7: sorts by time';
COMMENT ON COLUMN ai_requests.created_at IS 'When the call was made';
COMMENT ON COLUMN ai_requests.kind IS 'chat or embedding';
COMMENT ON COLUMN ai_requests.status IS 'ok, error, cancelled, or refused (by us: nothing was sent)';
COMMENT ON COLUMN ai_requests.requested_model IS 'The model_id that the caller asked for; NULL: the router chose';
COMMENT ON COLUMN ai_requests.picked_model IS 'What the strategy picked, with probability propensity; failover may have led elsewhere';
COMMENT ON COLUMN ai_requests.session_id IS 'Cut after 300 characters, as experiment and arm are';
COMMENT ON COLUMN ai_requests.model IS 'The model that answered, or failed last';
COMMENT ON COLUMN ai_requests.response_model IS 'Its name as the provider states it';
COMMENT ON COLUMN ai_requests.candidates IS 'All that could have answered: model_id, probability, score, and why dropped';
COMMENT ON COLUMN ai_requests.propensity IS 'Probability of picked_model at the moment of choice; NULL for a cache hit';
COMMENT ON COLUMN ai_requests.cache IS 'off, miss, memory, redis, postgres, semantic or coalesced';
COMMENT ON COLUMN ai_requests.cache_similarity IS 'Of a semantic hit, 0 to 1';
COMMENT ON COLUMN ai_requests.cache_source_id IS 'The request that made the cached answer';
COMMENT ON COLUMN ai_requests.input_tokens IS 'Includes cached input and cache writes. For a cache hit, those of the source';
COMMENT ON COLUMN ai_requests.output_tokens IS 'Includes reasoning. For a cache hit, those of the source';
COMMENT ON COLUMN ai_requests.output_image_tokens IS 'Part of output_tokens that is images';
COMMENT ON COLUMN ai_requests.usage_estimated IS 'Counted by us: the provider never reported (abandoned streams)';
COMMENT ON COLUMN ai_requests.raw_usage IS 'The provider''s own usage object';
COMMENT ON COLUMN ai_requests.price_version IS 'On whose word: config, provider, local, or genai-prices and its version';
COMMENT ON COLUMN ai_requests.cost_usd IS 'US dollars, the sum over its attempts; NULL: unknown; 0 for a cache hit';
COMMENT ON COLUMN ai_requests.fees_usd IS 'The part of cost_usd that is not for tokens';
COMMENT ON COLUMN ai_requests.uncached_cost_usd IS 'US dollars that it would have cost without the cache';
COMMENT ON COLUMN ai_requests.latency_ms IS 'Milliseconds from the call to the answer, as the caller felt it';
COMMENT ON COLUMN ai_requests.ttft_ms IS 'Milliseconds from the provider call to its first token; streams only';
COMMENT ON COLUMN ai_requests.queue_ms IS 'Milliseconds of waiting: rate limits and back-off';
COMMENT ON COLUMN ai_requests.route_ms IS 'Milliseconds that choosing took';
COMMENT ON COLUMN ai_requests.provider_ms IS 'Milliseconds spent in provider calls';
COMMENT ON COLUMN ai_requests.overhead_ms IS 'latency_ms - provider_ms - queue_ms: what this package added';
COMMENT ON COLUMN ai_requests.original_latency_ms IS 'For a cache hit, the provider call that made the answer; never to be mixed with latency_ms';
COMMENT ON COLUMN ai_requests.messages IS 'NULL when content logging is off; NUL is stored as U+FFFD';
COMMENT ON COLUMN ai_requests.attempts IS 'Number of provider calls; each is a row of ai_request_attempts';
COMMENT ON TABLE ai_request_attempts IS 'One row a provider call: first tries, retries, failovers, hedges, shadows, judges';
COMMENT ON COLUMN ai_request_attempts.request_id IS 'ai_requests.id';
COMMENT ON COLUMN ai_request_attempts.cost_usd IS 'US dollars; NULL: unknown, and unpriced_reason says why';
COMMENT ON COLUMN ai_request_attempts.latency_ms IS 'Milliseconds of this call alone';
COMMENT ON COLUMN ai_request_attempts.price_lines IS 'The bill: kind, quantity, usd_per_million, cost_usd';
COMMENT ON TABLE ai_log_segments IS 'Progress through spool files (see novellus_lab.store.spool)';
