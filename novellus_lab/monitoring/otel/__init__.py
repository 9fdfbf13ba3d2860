"""Spans and metrics by OpenTelemetry's conventions for generative AI. Nothing here is imported unless
somebody asks for it: `lab.monitor.instrument`, or `telemetry.opentelemetry` in the YAML.
"""
