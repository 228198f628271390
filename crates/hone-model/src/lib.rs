//! Transformers, heads, LoRA and their files.
