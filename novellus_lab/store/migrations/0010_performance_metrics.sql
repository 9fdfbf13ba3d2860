-- Rollups of the log, and how whoever keeps them finds what is new: rows come late, and in any order.

-- As in 0004: all transactions below a snapshot's xmin have ended, so that nobody who reads from there
-- on misses a row. The default is evaluated once for the rows that are there; they are not rewritten.
ALTER TABLE ai_requests ADD COLUMN written_in xid8 DEFAULT pg_current_xact_id();
CREATE INDEX ai_requests_written_in ON ai_requests (written_in);

CREATE TABLE model_performance_metrics (
    grain                text NOT NULL CHECK (grain IN ('minute', 'hour', 'day')),
    bucket               timestamptz NOT NULL,
    model                text NOT NULL,
    provider             text NOT NULL,
    kind                 text NOT NULL,
    requests             bigint NOT NULL,
    ok                   bigint NOT NULL,
    errors               bigint NOT NULL,
    cancelled            bigint NOT NULL,
    refused              bigint NOT NULL,
    answered             bigint NOT NULL,
    failed               bigint NOT NULL,
    failed_over          bigint NOT NULL,
    escalated            bigint NOT NULL,
    taken_over           bigint NOT NULL,
    retried              bigint NOT NULL,
    misses               bigint NOT NULL,
    memory_hits          bigint NOT NULL,
    redis_hits           bigint NOT NULL,
    postgres_hits        bigint NOT NULL,
    semantic_hits        bigint NOT NULL,
    coalesced            bigint NOT NULL,
    input_tokens         bigint NOT NULL,
    output_tokens        bigint NOT NULL,
    cached_input_tokens  bigint NOT NULL,
    cache_write_tokens   bigint NOT NULL,
    reasoning_tokens     bigint NOT NULL,
    saved_tokens         bigint NOT NULL,
    timed_tokens         bigint NOT NULL,
    timed_ms             double precision NOT NULL,
    priced               bigint NOT NULL,
    unpriced             bigint NOT NULL,
    cost_usd             numeric NOT NULL,
    saved_usd            numeric NOT NULL,
    error_classes        jsonb NOT NULL,
    latency_sum_ms       double precision,
    latency_min_ms       double precision,
    latency_max_ms       double precision,
    latency_bins         smallint[],
    latency_counts       bigint[],
    provider_sum_ms      double precision,
    provider_min_ms      double precision,
    provider_max_ms      double precision,
    provider_bins        smallint[],
    provider_counts      bigint[],
    ttft_sum_ms          double precision,
    ttft_min_ms          double precision,
    ttft_max_ms          double precision,
    ttft_bins            smallint[],
    ttft_counts          bigint[],
    hit_sum_ms           double precision,
    hit_min_ms           double precision,
    hit_max_ms           double precision,
    hit_bins             smallint[],
    hit_counts           bigint[],
    overhead_sum_ms      double precision,
    overhead_min_ms      double precision,
    overhead_max_ms      double precision,
    overhead_bins        smallint[],
    overhead_counts      bigint[],
    PRIMARY KEY (grain, bucket, model, provider, kind)
);

CREATE TABLE ai_rollup_progress (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    rolled_before xid8 NOT NULL,
    rolled_at     timestamptz NOT NULL DEFAULT now()
);

COMMENT ON COLUMN ai_requests.written_in IS 'Transaction that wrote the row: rollups follow it (novellus_lab.monitoring.rollups)';
COMMENT ON TABLE model_performance_metrics IS 'Rollups of ai_requests by minute, hour and day (UTC), model, provider and kind; made anew by `novellus metrics rebuild`';
COMMENT ON COLUMN model_performance_metrics.model IS 'ai_requests.model, else the requested one, else empty; and models that were asked in vain before another';
COMMENT ON COLUMN model_performance_metrics.requests IS 'Of which this is the model; ok, errors, cancelled and refused add up to it';
COMMENT ON COLUMN model_performance_metrics.answered IS 'By the model itself: ok, and no cache hit';
COMMENT ON COLUMN model_performance_metrics.failed IS 'By the model itself: error, and no other model was asked after it';
COMMENT ON COLUMN model_performance_metrics.failed_over IS 'Requests that this model failed and that were put to another; their requests are counted there';
COMMENT ON COLUMN model_performance_metrics.escalated IS 'Answered, but not well enough: a cascade went on to another model';
COMMENT ON COLUMN model_performance_metrics.taken_over IS 'The part of answered that another model had failed before';
COMMENT ON COLUMN model_performance_metrics.retried IS 'Requests in which this model was asked again after a failure';
COMMENT ON COLUMN model_performance_metrics.coalesced IS 'Requests that shared the provider call of an equal one';
COMMENT ON COLUMN model_performance_metrics.input_tokens IS 'Of provider calls, as the other tokens; saved_tokens are those of cache hits';
COMMENT ON COLUMN model_performance_metrics.timed_tokens IS 'Output tokens of answers to chats, which took timed_ms milliseconds';
COMMENT ON COLUMN model_performance_metrics.cost_usd IS 'US dollars, of the priced requests; what the unpriced ones cost is not known';
COMMENT ON COLUMN model_performance_metrics.saved_usd IS 'US dollars that the cache saved';
COMMENT ON COLUMN model_performance_metrics.error_classes IS 'Failures by error class: {"RateLimitError": 3}';
COMMENT ON COLUMN model_performance_metrics.latency_bins IS 'Of answered requests, as callers felt it: bin i holds (g^(i-1), g^i] ms, g = 1.01/0.99, so that quantiles are right to 1 %; latency_counts says how many are in each';
COMMENT ON COLUMN model_performance_metrics.provider_bins IS 'Milliseconds of the answering provider call alone';
COMMENT ON COLUMN model_performance_metrics.hit_bins IS 'Milliseconds of cache hits';
COMMENT ON COLUMN model_performance_metrics.overhead_bins IS 'Milliseconds that this package added to answered requests';
COMMENT ON TABLE ai_rollup_progress IS 'Rows of ai_requests that were written before this transaction are in model_performance_metrics';
