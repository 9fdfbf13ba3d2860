"""What other tools have logged, brought into the log: `novellus import`, `lab.analytics.load`.

Files become rows (`files`), a format makes calls or sums of them (`litellm`, `langfuse`, `own_rows`,
`openai_usage`, `anthropic_usage`), calls become records of the log (`call_records`) and are copied in
(`call_writer`); sums by day and model stay sums (`usage_writer`): no request is made up.
"""
