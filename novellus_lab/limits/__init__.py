"""How many calls may be under way, and what they may cost (floor 1).

`rate_limits` is the face of requests, tokens and calls at once, `budgets` that of money.
"""
