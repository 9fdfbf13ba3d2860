-- The configuration's mirror, with its history: which model meant what, when.

CREATE TABLE ai_models (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id    text NOT NULL,
    provider    text NOT NULL,
    model_name  text NOT NULL,
    config      jsonb NOT NULL,
    config_hash text NOT NULL,
    valid_from  timestamptz NOT NULL DEFAULT now(),
    valid_to    timestamptz
);

CREATE UNIQUE INDEX ai_models_current ON ai_models (model_id) WHERE valid_to IS NULL;

COMMENT ON TABLE ai_models IS 'Model configurations as the YAML gave them, one row a version';
COMMENT ON COLUMN ai_models.config IS 'The YAML entry; it names the variable of a key, never the key';
COMMENT ON COLUMN ai_models.valid_to IS 'When another version took its place; NULL for the current one';

CREATE TABLE load_balancing_rules (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    position    int NOT NULL,
    config      jsonb NOT NULL,
    config_hash text NOT NULL,
    valid_from  timestamptz NOT NULL DEFAULT now(),
    valid_to    timestamptz
);

CREATE UNIQUE INDEX load_balancing_rules_current ON load_balancing_rules (name)
    WHERE valid_to IS NULL;

COMMENT ON TABLE load_balancing_rules IS 'Routing rules as the YAML gave them, one row a version';
COMMENT ON COLUMN load_balancing_rules.position IS 'Place in the YAML: the first rule that matches decides';
