//! What is given of a text: a prompt, or a template with gaps, as positions that are pinned.

use crate::error::{Error, Result};

/// The tokens that a prompt or an infill template gives, none at its gaps; nothing without either.
///
/// # Errors
/// A prompt beside a template (usage); those of `encode`.
pub fn given(
    prompt: Option<&str>,
    infill: Option<&str>,
    encode: &dyn Fn(&str) -> Result<Vec<u32>>,
    words: bool,
) -> Result<Vec<Option<u32>>> {
    match (prompt, infill) {
        (Some(_), Some(_)) => {
            Err(Error::usage("`--prompt` and `--infill` cannot be given together")
                .hint("put the prompt into the template"))
        }
        (None, None) => Ok(Vec::new()),
        (Some(prompt), None) => Ok(encode(prompt)?.into_iter().map(Some).collect()),
        (None, Some(template)) => template_tokens(template, encode, words),
    }
}

/// Pinned positions `[L]` from what is given, or empty.
///
/// # Errors
/// More tokens than the model writes (usage).
pub fn filled(mut pinned: Vec<Option<u32>>, length: usize) -> Result<Vec<Option<u32>>> {
    if pinned.len() > length {
        return Err(Error::usage(format!("{} tokens are given, but the model writes {length}", pinned.len()))
            .hint("shorten the prompt"));
    }
    if !pinned.is_empty() {
        pinned.resize(length, None);
    }
    Ok(pinned)
}

/// A template's tokens: gaps are `_` or `·`, one a token; `words` has them between spaces.
fn template_tokens(template: &str, encode: &dyn Fn(&str) -> Result<Vec<u32>>, words: bool) -> Result<Vec<Option<u32>>> {
    let gap = |c: char| c == '_' || c == '·';
    let mut out = Vec::new();
    let mut piece = String::new();
    let flush = |piece: &mut String, out: &mut Vec<Option<u32>>| -> Result<()> {
        if !piece.is_empty() {
            out.extend(encode(piece)?.into_iter().map(Some));
            piece.clear();
        }
        Ok(())
    };
    if words {
        for word in template.split_whitespace() {
            match word.chars().all(gap) {
                true => out.extend(word.chars().map(|_| None)),
                false => out.extend(encode(word)?.into_iter().map(Some)),
            }
        }
        return Ok(out);
    }
    for c in template.chars() {
        if gap(c) {
            flush(&mut piece, &mut out)?;
            out.push(None);
        } else {
            piece.push(c);
        }
    }
    flush(&mut piece, &mut out)?;
    Ok(out)
}
