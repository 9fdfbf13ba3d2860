-- Why another strategy than the planned one decided, or why a cascade went up.

ALTER TABLE ai_requests ADD COLUMN route_reason text;

COMMENT ON COLUMN ai_requests.route_reason IS 'Why the strategy was another than the one asked for, or why a cascade went on to the next model; mostly NULL';
