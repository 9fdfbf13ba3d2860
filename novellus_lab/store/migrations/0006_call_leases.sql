-- Which process is making the answer to a question that others ask, too. Unlogged: what a crash of
-- the server loses here was over anyway.

CREATE UNLOGGED TABLE ai_call_lease_holders (
    holder     bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

CREATE UNLOGGED TABLE ai_call_leases (
    cache_key bytea PRIMARY KEY,
    holder    bytea NOT NULL
);

COMMENT ON TABLE ai_call_leases IS 'Which process is making the answer to a cache key (novellus_lab.cache.lease)';
COMMENT ON TABLE ai_call_lease_holders IS 'Until when such a process counts as alive';
