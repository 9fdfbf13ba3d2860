-- Imports: usage that a provider states by day and model alone, and calls whose duration nobody noted.

CREATE TABLE ai_imported_usage (
    id                    uuid PRIMARY KEY,
    source                text NOT NULL,
    kind                  text NOT NULL CHECK (kind IN ('usage', 'cost')),
    bucket_start          timestamptz NOT NULL,
    bucket_end            timestamptz NOT NULL,
    provider              text NOT NULL,
    model                 text,
    dimensions            jsonb NOT NULL DEFAULT '{}',
    grouping              text NOT NULL,
    requests              bigint,
    input_tokens          bigint,
    output_tokens         bigint,
    cached_input_tokens   bigint,
    cache_write_tokens    bigint,
    cache_write_1h_tokens bigint,
    input_audio_tokens    bigint,
    output_audio_tokens   bigint,
    web_searches          bigint,
    cost_usd              numeric,
    imported_at           timestamptz NOT NULL DEFAULT now(),
    CHECK (bucket_end > bucket_start)
);

CREATE INDEX ai_imported_usage_bucket ON ai_imported_usage (bucket_start, provider, model);

ALTER TABLE ai_request_attempts ALTER COLUMN latency_ms DROP NOT NULL;

-- As novellus_ensure_partitions, for the month of rows that come from elsewhere and are old.
CREATE FUNCTION novellus_ensure_month(moment timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = public, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
    parent text;
    start  timestamp := date_trunc('month', moment AT TIME ZONE 'UTC');
    part   text;
BEGIN
    PERFORM pg_advisory_xact_lock(1313821783);
    FOREACH parent IN ARRAY ARRAY['ai_requests', 'ai_request_attempts'] LOOP
        part := parent || to_char(start, '_YYYY_MM');
        IF to_regclass(part) IS NULL THEN
            BEGIN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                    part, parent, start AT TIME ZONE 'UTC',
                    (start + interval '1 month') AT TIME ZONE 'UTC');
            EXCEPTION WHEN check_violation OR lock_not_available THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

COMMENT ON TABLE ai_imported_usage IS 'Usage exports of providers that state sums (by day, model, key, ...), not calls: novellus import. No row of it is in ai_requests';
COMMENT ON COLUMN ai_imported_usage.source IS 'Whose export: openai, anthropic, litellm';
COMMENT ON COLUMN ai_imported_usage.kind IS 'usage: tokens and requests. cost: dollars. Two exports of one provider, never to be added up';
COMMENT ON COLUMN ai_imported_usage.bucket_end IS 'Exclusive';
COMMENT ON COLUMN ai_imported_usage.model IS 'NULL: the export was not grouped by model, or it is no model''s cost';
COMMENT ON COLUMN ai_imported_usage.dimensions IS 'What else it is grouped by: project, workspace, API key, service tier, line item, ...';
COMMENT ON COLUMN ai_imported_usage.grouping IS 'What the whole export was grouped by, and the width of its buckets: an import replaces what was there of the same time in another grouping, so that nothing counts twice';
COMMENT ON COLUMN ai_imported_usage.requests IS 'NULL: the export does not say; as all counts here';
COMMENT ON COLUMN ai_imported_usage.input_tokens IS 'Includes cached input and cache writes';
COMMENT ON COLUMN ai_imported_usage.cost_usd IS 'US dollars, as the export states them';
COMMENT ON COLUMN ai_request_attempts.latency_ms IS 'Milliseconds of this call alone; NULL: imported, and its source did not say';
