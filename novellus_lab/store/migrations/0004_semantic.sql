-- The semantic cache: nearest prompts within a scope, and how processes follow what others store.

ALTER TABLE ai_response_cache
    ADD COLUMN semantic_scope    bytea,
    ADD COLUMN embedding_changed xid8;

-- Room in each page for counting hits: an update that finds none there adds to every index, and to
-- HNSW that is a millisecond.
ALTER TABLE ai_response_cache SET (fillfactor = 80);

CREATE INDEX ai_response_cache_scope ON ai_response_cache (semantic_scope, embedding_model)
    WHERE semantic_scope IS NOT NULL;
CREATE INDEX ai_response_cache_changed ON ai_response_cache (embedding_changed)
    WHERE embedding_changed IS NOT NULL;
-- HNSW wants one number of dimensions. Indexes of other models are made when they are first used.
CREATE INDEX ai_response_cache_nearest_wordllama_256 ON ai_response_cache
    USING hnsw ((embedding::vector(256)) vector_cosine_ops)
    WHERE embedding_model = 'wordllama-256';

-- A number from a sequence would not do: a transaction that took a low one can commit after who
-- read a higher one looked. All transactions below a snapshot's xmin have ended, whatever they did.
CREATE FUNCTION novellus_embedding_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.embedding_changed := pg_current_xact_id();
    RETURN NEW;
END $$;

CREATE TRIGGER embedding_added BEFORE INSERT ON ai_response_cache
    FOR EACH ROW WHEN (NEW.embedding IS NOT NULL)
    EXECUTE FUNCTION novellus_embedding_changed();
CREATE TRIGGER embedding_changed BEFORE UPDATE OF embedding, embedding_model, semantic_scope
    ON ai_response_cache
    FOR EACH ROW WHEN (NEW.embedding IS NOT NULL)
    EXECUTE FUNCTION novellus_embedding_changed();

CREATE TABLE ai_response_cache_removals (
    cache_key  bytea NOT NULL,
    removed_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    removed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ai_response_cache_removals_in ON ai_response_cache_removals (removed_in);
CREATE INDEX ai_response_cache_removals_at ON ai_response_cache_removals (removed_at);

-- Whoever may delete an entry may say so.
CREATE FUNCTION novellus_note_removals() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO public.ai_response_cache_removals (cache_key)
    SELECT cache_key FROM gone WHERE embedding IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER note_removals AFTER DELETE ON ai_response_cache
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION novellus_note_removals();

COMMENT ON COLUMN ai_response_cache.semantic_scope IS 'Digest of all that must be equal for an answer to fit: system prompt, earlier turns, models, parameters; NULL: exact hits only';
COMMENT ON COLUMN ai_response_cache.embedding_changed IS 'Transaction that set the embedding: processes follow it (novellus_lab.cache.semantic.pgvector)';
COMMENT ON TABLE ai_response_cache_removals IS 'Entries with an embedding that were deleted of late, for processes that hold an index of them; kept for a day';
