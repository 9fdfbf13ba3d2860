"""Build `gsm8k_replay.jsonl.gz` from RouteLLM's GSM8K outcomes.

    python datasets/build_gsm8k_replay.py routellm_gsm8k.parquet cl100k_dir tokenizer.model.v1

Needs polars, tiktoken and sentencepiece. The second argument is a directory that holds OpenAI's
cl100k_base ranks under tiktoken's cache name; the third is Mistral's first tokenizer, the one that
Mixtral-8x7B uses (it ships in the package mistral-common).

Token counts are those of the models' own tokenizers over the chat format in which their APIs count:
OpenAI adds 3 tokens a message, 1 for its role and 3 to prime the reply; Mistral wraps the user's
text as `<s>[INST] … [/INST]` and ends the answer with `</s>`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"


def main(outcomes: str, ranks: str, mistral: str) -> None:
    os.environ["TIKTOKEN_CACHE_DIR"] = ranks
    import polars as pl
    import tiktoken
    from sentencepiece import SentencePieceProcessor

    openai = tiktoken.get_encoding("cl100k_base")
    mixtral = SentencePieceProcessor(model_file=mistral)

    def openai_tokens(text: str) -> int:
        return len(openai.encode(text, disallowed_special=()))

    target = Path(__file__).parent / "gsm8k_replay.jsonl.gz"
    # mtime 0: the same input gives the same file, bit for bit
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        for row in pl.read_parquet(outcomes).iter_rows(named=True):
            prompt = row["prompt"]
            record = {
                "prompt": prompt,
                "answers": {
                    "gpt-4-1106-preview": {
                        "content": row[f"{STRONG}_response"],
                        "correct": row[STRONG],
                        "input_tokens": 3 + 1 + openai_tokens(prompt) + 3,
                        "output_tokens": openai_tokens(row[f"{STRONG}_response"]),
                    },
                    "mixtral-8x7b-instruct": {
                        "content": row[f"{WEAK}_response"].strip(),
                        "correct": row[WEAK],
                        "input_tokens": 1 + len(mixtral.encode(f"[INST] {prompt} [/INST]")),
                        "output_tokens": len(mixtral.encode(row[f"{WEAK}_response"].strip())) + 1,
                    },
                },
            }
            file.write(json.dumps(record, ensure_ascii=False, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
