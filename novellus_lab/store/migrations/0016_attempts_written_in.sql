-- As ai_requests since 0010: whoever copies provider calls finds the new ones by index, not by reading all.
-- The default is evaluated once for the rows that are there; they are not rewritten.

ALTER TABLE ai_request_attempts ADD COLUMN written_in xid8 DEFAULT pg_current_xact_id();
CREATE INDEX ai_request_attempts_written_in ON ai_request_attempts (written_in);

COMMENT ON COLUMN ai_request_attempts.written_in IS 'Transaction that wrote the row: the copy for analytics follows it (novellus_lab.analytics.log_mirror)';
