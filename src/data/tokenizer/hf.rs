//! The Hugging Face side: every call of the `tokenizers` crate that sees a file of strangers, each inside
//! `catch_unwind`, and our own kinds written as `tokenizer.json`.

use super::{END, MAX_FILE, Tokenizer, UNKNOWN, component};
use crate::error::{Error, Result};
use crate::fs::read_limited;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Ids above this are taken for a damaged file: tables of that many rows would be made from a few bytes.
const MAX_ID: u64 = 1 << 24;
/// Values in a file: some ten million bytes of the largest public vocabularies have two million.
const MAX_VALUES: usize = 8 << 20;
/// Bytes of an added token, and of all of them: the library builds an automaton that takes some 250 bytes for each.
const MAX_ADDED: usize = 4096;
const MAX_ALL_ADDED: usize = 1 << 20;
/// Text is encoded in pieces of about this many bytes, since the library takes some hundred bytes for each.
const PIECE: usize = 1 << 20;
/// Bytes in which a place to cut is looked for.
const WINDOW: usize = 4 * PIECE;

/// Where ids go.
pub type Out<'o> = &'o mut dyn FnMut(u32);

/// Runs `work` of the library on data that may be crafted to make it panic.
pub(super) fn guarded<T>(what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| Error::input(what.to_string()).cause(e.to_string())),
        Err(_) => Err(Error::input(what.to_string()).cause("the tokenizers library failed on it")),
    }
}

/// A tokenizer from the text of a `tokenizer.json` called `file` in messages.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Tokenizer> {
    let wrong = |why: String| Error::input(format!("{file} is not a valid tokenizer.json")).cause(why);
    let values = bytes.iter().filter(|b| **b == b',').count();
    if values > MAX_VALUES {
        return Err(wrong(format!("it has {values} values or more, at most {MAX_VALUES} are read")));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
    if let Some(own) = own_kind(&value) {
        return Ok(own);
    }
    from_value(value, file)
}

/// The tokenizer of ours that would have been written as `value`.
fn own_kind(value: &Value) -> Option<Tokenizer> {
    if value["model"]["type"] != "WordLevel" {
        return None;
    }
    let vocab = value["model"]["vocab"].as_object()?;
    let mut words = vec![None; vocab.len()];
    for (word, id) in vocab {
        *words.get_mut(usize::try_from(id.as_u64()?).ok()?)? = Some(word.clone());
    }
    let words = words.into_iter().collect::<Option<Vec<String>>>()?;
    if *value == bytes_json() {
        return Some(Tokenizer::Bytes);
    }
    if *value == words_json(&words) {
        return Some(Tokenizer::Words(words));
    }
    let chars: Vec<char> = words.iter().filter_map(|w| w.chars().next()).collect();
    (chars.is_sorted() && *value == char_json(&chars)).then_some(Tokenizer::Char { chars })
}

fn from_value(mut value: Value, file: &str) -> Result<Tokenizer> {
    let what = format!("{file} is not a valid tokenizer.json");
    let wrong = |why: String| Error::input(what.clone()).cause(why);
    let Some(fields) = value.as_object_mut() else { return Err(wrong("it is not an object".into())) };
    // A corpus is one stream: cutting and padding have no place in it, and dropout would make it differ each time.
    fields.insert("truncation".into(), Value::Null);
    fields.insert("padding".into(), Value::Null);
    if let Some(model) = fields.get_mut("model").and_then(Value::as_object_mut)
        && model.contains_key("dropout")
    {
        model.insert("dropout".into(), Value::Null);
    }
    let ids = value["model"]["vocab"].as_object().into_iter().flat_map(Map::values);
    if let Some(id) = ids.filter_map(Value::as_u64).find(|id| *id > MAX_ID) {
        return Err(wrong(format!("the id {id} is above {MAX_ID}")));
    }
    // Of two the library would write one, and read another tokenizer back.
    if let Some((one, other, id)) = twice(&value["model"]["vocab"]) {
        return Err(wrong(format!("the tokens `{one}` and `{other}` have the same id {id}")));
    }
    let added: Vec<(String, Option<u64>)> = value["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| Some((a["content"].as_str()?.to_string(), a["id"].as_u64())))
        .collect();
    let all: usize = added.iter().map(|(name, _)| name.len()).sum();
    if let Some((name, _)) = added.iter().find(|(name, _)| name.len() > MAX_ADDED) {
        let begin: String = name.chars().take(40).collect();
        return Err(wrong(format!(
            "the added token `{begin}..` has {} bytes, at most {MAX_ADDED} are read",
            name.len()
        )));
    }
    if all > MAX_ALL_ADDED {
        return Err(wrong(format!("its added tokens have {all} bytes, at most {MAX_ALL_ADDED} are read")));
    }
    let tokenizer: tokenizers::Tokenizer = guarded(&what, || Ok(tokenizers::Tokenizer::deserialize(&value)?))
        .map_err(|e| component::explained(e, &value))?;
    // One of ours, written with other keys than ours: what the library writes of it is read as ours.
    if matches!(tokenizer.get_model(), tokenizers::models::ModelWrapper::WordLevel(_)) {
        let written = guarded(&what, || Ok(serde_json::to_value(&tokenizer)?))?;
        if let Some(own) = own_kind(&written) {
            return Ok(own);
        }
    }
    // The library numbers added tokens in order and does not look at the ids in the file: a gap would shift them all.
    for (name, id) in added.iter().filter_map(|(name, id)| Some((name, (*id)?))) {
        let got = tokenizer.token_to_id(name).map(u64::from);
        if got.is_some_and(|got| got != id) {
            return Err(wrong(format!("the added token `{name}` has the id {id}, and the ids before it have a gap"))
                .hint("add tokens for the missing ids to added_tokens"));
        }
    }
    // A first use finds what only shows when text is seen, such as a decoder that does not fit.
    guarded(&what, || tokenizer.decode(tokenizer.encode("a b\n", false)?.get_ids(), false))?;
    Ok(Tokenizer::Hf(Box::new(tokenizer)))
}

/// Two tokens of a vocabulary that have the same id.
fn twice(vocab: &Value) -> Option<(&str, &str, u64)> {
    let mut names: std::collections::HashMap<u64, &str> = std::collections::HashMap::new();
    vocab.as_object()?.iter().find_map(|(name, id)| {
        let id = id.as_u64()?;
        names.insert(id, name).map(|before| (before, &name[..], id))
    })
}

/// The vocabulary and the merges of a byte-level BPE in two files.
fn bpe_files(vocab_path: &Path, merges_path: &Path) -> Result<(BTreeMap<String, u32>, Vec<Value>)> {
    let vocab = read_limited(vocab_path, MAX_FILE)?;
    let wrong = |why: String| Error::input(format!("{} is not a BPE vocabulary", vocab_path.display())).cause(why);
    let vocab: BTreeMap<String, u32> = serde_json::from_slice(&vocab).map_err(|e| wrong(e.to_string()))?;
    let text = read_limited(merges_path, MAX_FILE)?;
    let wrong = |why: String| Error::input(format!("{} is not a list of BPE merges", merges_path.display())).cause(why);
    let text = std::str::from_utf8(&text).map_err(|e| wrong(e.to_string()))?;
    let mut merges = Vec::new();
    for (line, pair) in text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with("#version")) {
        match pair.split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => merges.push(json!([a, b])),
            _ => return Err(wrong(format!("line {}: `{pair}` is not two tokens parted by a space", line + 1))),
        }
    }
    Ok((vocab, merges))
}

fn bpe_model(vocab: &BTreeMap<String, u32>, merges: Vec<Value>) -> Value {
    json!({ "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges })
}

/// The byte-level BPE of GPT-2 from `vocab.json` and `merges.txt`.
pub fn gpt2(vocab_path: &Path, merges_path: &Path) -> Result<Tokenizer> {
    let (vocab, merges) = bpe_files(vocab_path, merges_path)?;
    byte_level(&vocab, merges, &format!("{} with {}", vocab_path.display(), merges_path.display()))
}

/// A byte-level BPE that cuts words as GPT-2 does; `file` is what messages call it. The end token, if it has one, is none that
/// text is merged to.
pub(super) fn byte_level(vocab: &BTreeMap<String, u32>, merges: Vec<Value>, file: &str) -> Result<Tokenizer> {
    let added: Vec<Value> = vocab.get(END).map(|id| added_token(*id, END)).into_iter().collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let mut value = document(byte_level.clone(), byte_level, bpe_model(vocab, merges));
    value["added_tokens"] = json!(added);
    from_value(value, file)
}

/// How Qwen2 cuts text into words: contractions, letters behind one sign, single digits, signs, line ends, spaces.
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The byte-level BPE of Qwen2 from its files, with the added tokens of `added_tokens.json` if it exists.
///
/// The added tokens stand in the vocabulary too, so that gaps between their ids are kept.
pub fn qwen2(vocab_path: &Path, merges_path: &Path, added_path: &Path) -> Result<Tokenizer> {
    let (mut vocab, merges) = bpe_files(vocab_path, merges_path)?;
    let mut added = Vec::new();
    if added_path.exists() {
        let wrong = |why: String| Error::input(format!("{} is not a list of tokens", added_path.display())).cause(why);
        let bytes = read_limited(added_path, MAX_FILE)?;
        let tokens: BTreeMap<String, u32> = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        for (token, id) in tokens {
            added.push((id, added_token(id, &token)));
            vocab.insert(token, id);
        }
    }
    added.sort_by_key(|(id, _)| *id);
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let words =
        json!({ "type": "Split", "pattern": { "Regex": QWEN2_WORDS }, "behavior": "Isolated", "invert": false });
    let cut = json!({ "type": "Sequence", "pretokenizers": [words, byte_level] });
    let mut value = document(cut, byte_level, bpe_model(&vocab, merges));
    value["normalizer"] = json!({ "type": "NFC" });
    value["added_tokens"] = added.into_iter().map(|(_, token)| token).collect();
    from_value(value, &format!("{} with {}", vocab_path.display(), merges_path.display()))
}

/// The `tokenizer_class` of a tokenizer_config.json, if the file exists and names one.
pub fn class(path: &Path) -> Result<Option<String>> {
    Ok(config(path)?.and_then(|value| value["tokenizer_class"].as_str().map(String::from)))
}

/// The content of a tokenizer_config.json, if the file exists.
fn config(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |why: String| Error::input(format!("{} is not JSON", path.display())).cause(why);
    serde_json::from_slice(&read_limited(path, MAX_FILE)?).map(Some).map_err(|e| wrong(e.to_string()))
}

fn added_token(id: u32, content: &str) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true })
}

/// One more than the highest id.
pub fn vocab_size(tokenizer: &tokenizers::Tokenizer) -> usize {
    tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
}

/// The ids below [`vocab_size`] that are no token's.
pub fn gaps(tokenizer: &tokenizers::Tokenizer) -> Vec<u32> {
    let mut known = vec![false; vocab_size(tokenizer)];
    tokenizer.get_vocab(true).into_values().for_each(|id| known[id as usize] = true);
    (0u32..).zip(known).filter(|(_, known)| !known).map(|(id, _)| id).collect()
}

/// Gives the ids of the front of `text` to `out`, piece by piece where that gives the same ids as the whole, and returns
/// how many bytes that is: all where the text ends there, else what no following text can change.
pub fn encode_front(tokenizer: &tokenizers::Tokenizer, text: &str, ends: bool, out: Out) -> Result<usize> {
    let ids = |part: &str| {
        guarded("the text cannot be encoded", || Ok(tokenizer.encode_fast(part, false)?.get_ids().to_vec()))
    };
    let mut from = 0;
    while text.len() - from > if ends { 2 * PIECE } else { WINDOW } {
        let Some(at) = cut(&text[from..], &ids)? else { break };
        ids(&text[from..from + at])?.into_iter().for_each(&mut *out);
        from += at;
    }
    if ends {
        ids(&text[from..])?.into_iter().for_each(out);
        from = text.len();
    }
    Ok(from)
}

/// Where behind its first piece a long text can be cut: behind a line, or else at a space between two words.
fn cut(text: &str, ids: &dyn Fn(&str) -> Result<Vec<u32>>) -> Result<Option<usize>> {
    let begin = floor(text, PIECE);
    let window = &text[begin..floor(text, WINDOW - 200)];
    let lines = window.match_indices('\n').map(|(at, _)| begin + at + 1).take(1000);
    // A single one: how several in a row are cut up may depend on where they begin.
    let single = |at: &usize| {
        let next = text[at + 1..].chars().next();
        let before = text[..*at].chars().next_back();
        [before, next].iter().all(|c| c.is_some_and(|c| !c.is_whitespace()))
    };
    let spaces = window.match_indices(' ').map(|(at, _)| begin + at).filter(single).take(1000);
    for at in lines.chain(spaces) {
        // A cut is good if the text around it has the same ids in two halves.
        let (left, right) = (floor(text, at - at.min(200)), floor(text, at + 200));
        if ids(&text[left..right])? == [ids(&text[left..at])?, ids(&text[at..right])?].concat() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The ids that the file's post-processor puts in front of every text: most often none, or a beginning of text.
pub fn front(tokenizer: &tokenizers::Tokenizer) -> Result<Vec<u32>> {
    let ids = |special: bool| {
        guarded("the tokenizer's post_processor", || Ok(tokenizer.encode_fast("a", special)?.get_ids().to_vec()))
    };
    let (plain, mut whole) = (ids(false)?, ids(true)?);
    let at = whole.windows(plain.len().max(1)).position(|part| part == plain);
    whole.truncate(at.unwrap_or(0));
    Ok(whole)
}

/// Whether the tokenizer_config.json in `path`, if it exists, says that a text begins with the beginning-of-text token.
/// Only the classes made after LLaMA's first tokenizer heed their key; the others leave it to the post-processor.
pub fn adds_bos(path: &Path) -> Result<Option<bool>> {
    let Some(value) = config(path)? else { return Ok(None) };
    let heeds = value["tokenizer_class"].as_str().is_some_and(|class| class.starts_with("LlamaTokenizer"));
    Ok(value["add_bos_token"].as_bool().filter(|_| heeds))
}

fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

/// The text of `ids`; the library leaves unknown ids out, so the text between them is decoded run by run.
pub fn decode(tokenizer: &tokenizers::Tokenizer, ids: &[u32]) -> String {
    let text =
        |run: &[u32]| guarded("decode", || tokenizer.decode(run, false)).unwrap_or_else(|_| UNKNOWN.repeat(run.len()));
    let runs: Vec<String> = ids
        .chunk_by(|a, b| known(tokenizer, *a) && known(tokenizer, *b))
        .map(|run| if known(tokenizer, run[0]) { text(run) } else { UNKNOWN.into() })
        .collect();
    runs.concat()
}

/// What each id stands for; `json` is the tokenizer's own file.
pub fn pieces(tokenizer: &tokenizers::Tokenizer, json: &str) -> Result<Vec<Option<Vec<u8>>>> {
    let value: Value = serde_json::from_str(json).map_err(|e| Error::input(format!("tokenizer: {e}")))?;
    let decoder = &value["decoder"];
    let several = decoder["decoders"].as_array().into_iter().flatten();
    let byte_level = several.chain([decoder]).any(|d| d["type"] == "ByteLevel");
    let bytes: BTreeMap<char, u8> = byte_chars().zip(0..=255).collect();
    let added = tokenizer.get_added_tokens_decoder();
    let piece = |id: u32| {
        let name = tokenizer.id_to_token(id)?;
        let plain = || name.chars().map(|c| bytes.get(&c).copied()).collect::<Option<Vec<u8>>>();
        let spelt = if byte_level && !added.contains_key(&id) { plain() } else { None };
        Some(spelt.unwrap_or_else(|| name.into_bytes()))
    };
    Ok((0..vocab_size(tokenizer) as u32).map(piece).collect())
}

fn known(tokenizer: &tokenizers::Tokenizer, id: u32) -> bool {
    tokenizer.id_to_token(id).is_some()
}

/// A `tokenizer.json` of these parts.
fn document(pre_tokenizer: Value, decoder: Value, model: Value) -> Value {
    json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model })
}

/// A model without an unknown token in its vocabulary: what is not in it is an error.
fn word_level(words: impl Iterator<Item = String>) -> Value {
    let vocab: Map<String, Value> = words.zip(0u32..).map(|(word, id)| (word, id.into())).collect();
    json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" })
}

fn isolate_chars() -> Value {
    json!({ "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated", "invert": false })
}

/// `Tokenizer::Char` as a Hugging Face file.
pub fn char_json(chars: &[char]) -> Value {
    document(isolate_chars(), json!({ "type": "Fuse" }), word_level(chars.iter().map(char::to_string)))
}

/// `Tokenizer::Words` as a Hugging Face file.
pub fn words_json(words: &[String]) -> Value {
    document(json!({ "type": "WhitespaceSplit" }), Value::Null, word_level(words.iter().cloned()))
}

/// `Tokenizer::Bytes` as a Hugging Face file: each byte is written as the printable character GPT-2 gave it.
pub fn bytes_json() -> Value {
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [byte_level, isolate_chars()] });
    document(pre_tokenizer, byte_level, word_level(byte_chars().map(String::from)))
}

/// The character of each byte 0..=255: itself where printable, else the next free one from U+0100 on.
pub(super) fn byte_chars() -> impl Iterator<Item = char> {
    let mut free = '\u{100}'..;
    (0..=255u8).map(move |b| match b {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b),
        _ => free.next().unwrap_or('\u{fffd}'),
    })
}
