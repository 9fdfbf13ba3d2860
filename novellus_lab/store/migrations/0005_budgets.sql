-- Budgets that many processes share: what may be spent, what was, and what calls under way may cost.

CREATE TABLE ai_budgets (
    key        text PRIMARY KEY,
    name       text NOT NULL,
    usd        numeric NOT NULL,
    per        text NOT NULL CHECK (per IN ('day', 'month', 'total')),
    time_zone  text NOT NULL,
    scope      jsonb NOT NULL,
    on_exceed  text NOT NULL CHECK (on_exceed IN ('warn', 'downgrade', 'refuse')),
    warn_at    double precision NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A few rows that every call changes: room on the page keeps the changes off the index.
CREATE TABLE ai_budget_periods (
    budget       text NOT NULL,
    subject      text NOT NULL,
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    spent_usd    numeric NOT NULL DEFAULT 0,
    reserved_usd numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (budget, subject, period_start)
) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE ai_budget_reservations (
    id           uuid NOT NULL,
    budget       text NOT NULL,
    subject      text NOT NULL,
    period_start timestamptz NOT NULL,
    usd          numeric NOT NULL,
    reserved_at  timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    expired      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (id, budget, subject)
);

CREATE INDEX ai_budget_reservations_expires_at ON ai_budget_reservations (expires_at);

COMMENT ON TABLE ai_budgets IS 'Budgets as the YAML of the lab that last used them gave them';
COMMENT ON COLUMN ai_budgets.key IS 'Name and a digest of period, time zone and scope: two labs that mean the same share it';
COMMENT ON TABLE ai_budget_periods IS 'One row a budget, subject and period';
COMMENT ON COLUMN ai_budget_periods.subject IS 'Whom it counts, where a scope counts each by itself (session: "*"); else empty';
COMMENT ON COLUMN ai_budget_periods.period_start IS '-infinity for budgets without a period';
COMMENT ON COLUMN ai_budget_periods.spent_usd IS 'What calls that have ended cost, in US dollars';
COMMENT ON COLUMN ai_budget_periods.reserved_usd IS 'What calls under way may cost at most, in US dollars';
COMMENT ON TABLE ai_budget_reservations IS 'Calls under way; and those of processes that died, until the log says what they cost';
COMMENT ON COLUMN ai_budget_reservations.id IS 'ai_request_attempts.id of the call, or ai_requests.id';
COMMENT ON COLUMN ai_budget_reservations.expires_at IS 'Renewed while its process lives; when expired, when to look for it in the log again';
COMMENT ON COLUMN ai_budget_reservations.expired IS 'Whether it was given back';

CREATE FUNCTION novellus_budget_period(
    per text, zone text, OUT period_start timestamptz, OUT period_end timestamptz
) LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN per = 'total' THEN '-infinity' ELSE date_trunc(per, now(), zone) END,
           CASE WHEN per = 'total' THEN 'infinity'
                ELSE (date_trunc(per, now() AT TIME ZONE zone) + ('1 ' || per)::interval)
                     AT TIME ZONE zone END
$$;

-- Settle calls that ended, and reserve for others, in their turn: one atomic step.
--
-- Whoever changes a period or a reservation locks the periods first, in the order of their key; so
-- nobody waits in a circle, and what is read here is true until it is committed.
CREATE FUNCTION novellus_budget_apply(
    lease         interval,
    settled       uuid[],
    costs         numeric[],    -- of those, in US dollars; NULL: unknown, what was reserved stands
    budgets       text[],       -- the counters that are asked for, each once
    subjects      text[],
    pers          text[],
    zones         text[],
    limits        numeric[],    -- NULL: reserve whatever is spent
    calls         uuid[],
    usd           numeric[],    -- what each may cost at most
    need_call     int[],        -- which call needs room in which counter, in the order of the calls
    need_counter  int[],
    again         boolean,      -- whether this was sent before and its answer was lost
    OUT blocked   int[],        -- of each call: 0 reserved, else the counter that has no room
    OUT spent     numeric[],    -- of each counter, afterwards
    OUT reserved  numeric[],
    OUT starts    timestamptz[],
    OUT ends      timestamptz[]
) LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    m     int := coalesce(cardinality(need_call), 0);
    n     int := coalesce(cardinality(calls), 0);
    k     int := 1;
    first int;
    full_ int;
    i     int;
    added numeric[];
    known uuid[] := '{}';
BEGIN
    SELECT array_agg(w.period_start ORDER BY u.i), array_agg(w.period_end ORDER BY u.i),
           array_agg(0::numeric)
    INTO starts, ends, added
    FROM unnest(pers, zones) WITH ORDINALITY AS u (per, zone, i),
         LATERAL novellus_budget_period(u.per, u.zone) AS w;

    INSERT INTO ai_budget_periods (budget, subject, period_start, period_end)
    SELECT u.budget, u.subject, u.period_start, u.period_end
    FROM unnest(budgets, subjects, starts, ends) AS u (budget, subject, period_start, period_end)
    WHERE NOT EXISTS (
        SELECT FROM ai_budget_periods AS p
        WHERE (p.budget, p.subject, p.period_start) = (u.budget, u.subject, u.period_start))
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING;

    PERFORM FROM ai_budget_periods AS p
    WHERE (p.budget, p.subject, p.period_start) IN (
        SELECT * FROM unnest(budgets, subjects, starts)
        UNION SELECT r.budget, r.subject, r.period_start
        FROM ai_budget_reservations AS r WHERE r.id = ANY (settled))
    ORDER BY p.budget, p.subject, p.period_start
    FOR UPDATE;

    IF cardinality(settled) > 0 THEN
        WITH gone AS (
            DELETE FROM ai_budget_reservations AS r
            USING unnest(settled, costs) AS s (id, cost)
            WHERE r.id = s.id
            RETURNING r.budget, r.subject, r.period_start, coalesce(s.cost, r.usd) AS cost,
                      CASE WHEN r.expired THEN 0 ELSE r.usd END AS held
        ), sums AS (
            SELECT g.budget, g.subject, g.period_start, sum(g.cost) AS cost, sum(g.held) AS held
            FROM gone AS g GROUP BY 1, 2, 3
        )
        UPDATE ai_budget_periods AS p
        SET spent_usd = p.spent_usd + s.cost, reserved_usd = p.reserved_usd - s.held
        FROM sums AS s
        WHERE (p.budget, p.subject, p.period_start) = (s.budget, s.subject, s.period_start);
    END IF;

    SELECT array_agg(p.spent_usd ORDER BY u.i), array_agg(p.reserved_usd ORDER BY u.i)
    INTO spent, reserved
    FROM unnest(budgets, subjects, starts) WITH ORDINALITY AS u (budget, subject, period_start, i)
    JOIN ai_budget_periods AS p
        ON (p.budget, p.subject, p.period_start) = (u.budget, u.subject, u.period_start);

    blocked := '{}';
    IF n = 0 THEN
        RETURN;
    END IF;
    IF again THEN
        SELECT coalesce(array_agg(DISTINCT r.id), '{}') INTO known
        FROM ai_budget_reservations AS r WHERE r.id = ANY (calls);
    END IF;
    FOR c IN 1..n LOOP
        full_ := 0;
        first := k;
        WHILE k <= m AND need_call[k] = c LOOP
            i := need_counter[k];
            IF full_ = 0 AND usd[c] > 0 AND spent[i] + reserved[i] + added[i] + usd[c] > limits[i] THEN
                full_ := i;
            END IF;
            k := k + 1;
        END LOOP;
        IF calls[c] = ANY (known) THEN
            full_ := 0;
        ELSIF full_ = 0 THEN
            FOR j IN first..k - 1 LOOP
                added[need_counter[j]] := added[need_counter[j]] + usd[c];
            END LOOP;
        END IF;
        blocked[c] := full_;
    END LOOP;

    UPDATE ai_budget_periods AS p
    SET reserved_usd = p.reserved_usd + u.added
    FROM unnest(budgets, subjects, starts, added) AS u (budget, subject, period_start, added)
    WHERE (p.budget, p.subject, p.period_start) = (u.budget, u.subject, u.period_start)
        AND u.added > 0;

    INSERT INTO ai_budget_reservations (id, budget, subject, period_start, usd, reserved_at, expires_at)
    SELECT calls[u.c], budgets[u.i], subjects[u.i], starts[u.i], usd[u.c], now(), now() + lease
    FROM unnest(need_call, need_counter) AS u (c, i)
    WHERE blocked[u.c] = 0 AND NOT calls[u.c] = ANY (known);

    FOR i IN 1..cardinality(added) LOOP
        reserved[i] := reserved[i] + added[i];
    END LOOP;
END
$$;

-- Give back what processes that died had reserved; and take from the log what those calls cost, once
-- it says so: it may come later than the lease's end, from a spool that somebody found.
CREATE FUNCTION novellus_budget_tend(look_again interval, forget interval) RETURNS int
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
DECLARE
    due     uuid[];
    changed int;
BEGIN
    SELECT array_agg(DISTINCT d.id) INTO due FROM (
        SELECT r.id FROM ai_budget_reservations AS r
        WHERE r.expires_at < now() ORDER BY r.expires_at LIMIT 500) AS d;
    IF due IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM FROM ai_budget_periods AS p
    WHERE (p.budget, p.subject, p.period_start) IN (
        SELECT r.budget, r.subject, r.period_start
        FROM ai_budget_reservations AS r WHERE r.id = ANY (due))
    ORDER BY p.budget, p.subject, p.period_start
    FOR UPDATE;

    WITH overdue AS MATERIALIZED (
        SELECT r.* FROM ai_budget_reservations AS r
        WHERE r.id = ANY (due) AND r.expires_at < now()
        FOR UPDATE SKIP LOCKED
    ), told AS MATERIALIZED (
        SELECT o.*, t.known IS NOT NULL AS known, coalesce(t.cost_usd, o.usd) AS cost
        FROM overdue AS o LEFT JOIN LATERAL (
            SELECT true AS known, a.cost_usd FROM ai_request_attempts AS a
            WHERE a.id = o.id AND a.started_at BETWEEN o.reserved_at - interval '1 day'
                                                   AND o.reserved_at + interval '1 day'
            UNION ALL
            SELECT true, q.cost_usd FROM ai_requests AS q
            WHERE q.id = o.id AND q.created_at BETWEEN o.reserved_at - interval '1 day'
                                                   AND o.reserved_at + interval '1 day'
            LIMIT 1) AS t ON true
    ), gone AS (
        DELETE FROM ai_budget_reservations AS r USING told AS t
        WHERE (r.id, r.budget, r.subject) = (t.id, t.budget, t.subject)
            AND (t.known OR t.reserved_at < now() - forget)
    ), kept AS (
        UPDATE ai_budget_reservations AS r
        SET expired = true, expires_at = now() + look_again
        FROM told AS t
        WHERE (r.id, r.budget, r.subject) = (t.id, t.budget, t.subject)
            AND NOT (t.known OR t.reserved_at < now() - forget)
    ), sums AS (
        SELECT t.budget, t.subject, t.period_start,
               sum(CASE WHEN t.known THEN t.cost ELSE 0 END) AS cost,
               sum(CASE WHEN t.expired THEN 0 ELSE t.usd END) AS held
        FROM told AS t GROUP BY 1, 2, 3
    )
    UPDATE ai_budget_periods AS p
    SET spent_usd = p.spent_usd + s.cost, reserved_usd = p.reserved_usd - s.held
    FROM sums AS s
    WHERE (p.budget, p.subject, p.period_start) = (s.budget, s.subject, s.period_start)
        AND (s.cost > 0 OR s.held > 0);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;
