"""Many calls over servers that fail in every way: does each come to an end, and is nothing left behind?"""
