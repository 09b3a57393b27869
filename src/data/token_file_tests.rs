//! Token files, whole and damaged.

use super::*;
use proptest::prelude::*;

/// The tokens of a file c.tok with these bytes.
fn parse(bytes: &[u8]) -> Result<Vec<u32>> {
    let (path, mut file) = (Path::new("c.tok"), bytes);
    let (header, begin) = read_header(path, &mut file, bytes.len() as u64)?;
    read_tokens(path, &header, &mut file, begin, &|_| {}).map(|tokens| tokens.iter().collect())
}

/// A token file with `change` made to its header before it is written.
fn token_file(vocab: usize, dtype: Dtype, data: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let (length, sha256) = (data.len() / dtype.size(), fs::sha256_hex(data));
    let (source_sha256, tokenizer_sha256) = (String::new(), String::new());
    let mut header = Header { format: FORMAT, vocab, dtype, length, sha256, source_sha256, tokenizer_sha256 };
    change(&mut header);
    let json = serde_json::to_vec(&header).unwrap();
    [MAGIC, &(json.len() as u32).to_le_bytes()[..], &json, data].concat()
}

#[test]
fn each_damage_of_a_cache_file_is_named_with_its_offset() {
    let good = token_file(256, Dtype::U16, &[1, 0, 2, 0], |_| {});
    assert_eq!(parse(&good).unwrap(), [1, 2]);
    let begin = good.len() - 4;
    let (odd, long) = (format!("at byte {}: half a token", good.len()), [&good[..], &[0]].concat());
    let id = format!("at byte {}: token 1 has the id 512, the vocabulary has 256", begin + 2);
    let mut magic = good.clone();
    magic[7] = b'2';
    let mut huge = good.clone();
    huge[8..12].fill(0xff);
    for (bytes, words) in [
        (b"FEW".to_vec(), "it has 3 bytes"),
        (magic, "at byte 0"),
        (good[..10].to_vec(), "at byte 8"),
        (huge, "at byte 8: the header length is 4294967295"),
        (token_file(256, Dtype::U16, &[], |h| h.format = 2), "format 2"),
        (token_file(65537, Dtype::U16, &[1, 0], |_| {}), "dtype U16 does not fit a vocabulary of 65537"),
        (token_file(256, Dtype::U16, &[1, 0], |h| h.length = 9), "says 9 tokens, and 1 follow"),
        (token_file(256, Dtype::U16, &[1, 0], |h| h.sha256 = "0".into()), "the sha256 of the tokens"),
        (token_file(256, Dtype::U16, &[1, 0, 0, 2], |_| {}), &id),
        (long, &odd),
    ] {
        let e = parse(&bytes).unwrap_err();
        assert!(e.kind == Kind::Input && e.to_string().contains(words), "`{words}` is not in: {e}");
        assert!(e.hint.as_deref().unwrap().contains("delete the cache file c.tok"), "{e}");
    }
}

#[test]
fn tokens_over_several_pieces_come_back_from_their_file_in_both_widths() {
    let dir = tempfile::tempdir().unwrap();
    for vocab in [300, 70_000] {
        let path = dir.path().join(format!("{vocab}.tok"));
        let made = || {
            let mut tokens = Tokens::new(vocab);
            tokens.extend((0..2 * PIECE + 5).map(|i| (i % vocab) as u32));
            tokens
        };
        let ask = |sha: &str, make: &dyn Fn() -> Result<Tokens>| {
            let of = Of { text: Path::new("t.txt"), vocab, source_sha256: sha, tokenizer_sha256: "t" };
            cached(Some(&path), of, make)
        };
        let first = ask("a", &|| Ok(made())).unwrap();
        let bytes: Vec<u8> = match vocab {
            300 => made().iter().flat_map(|id| (id as u16).to_le_bytes()).collect(),
            _ => made().iter().flat_map(u32::to_le_bytes).collect(),
        };
        assert!(first.1 == fs::sha256_hex(&bytes) && std::fs::read(&path).unwrap().ends_with(&bytes));
        assert!(ask("a", &|| panic!("it is there")).unwrap() == first);
        // Another text: made anew, without a look at the tokens there.
        assert_eq!(ask("b", &|| Ok(Tokens::new(vocab))).unwrap().0.len(), 0);
        let e = ask("c", &|| Err(Error::input("no text"))).unwrap_err();
        assert_eq!(e.message, "no text");
    }
}

#[test]
fn an_id_beyond_the_vocabulary_is_named_with_its_place() {
    let of = Of { text: Path::new("t.txt"), vocab: 200, source_sha256: "s", tokenizer_sha256: "t" };
    let made = || {
        let mut tokens = Tokens::new(200);
        tokens.extend([1, 199, 201, 7]);
        Ok(tokens)
    };
    let e = cached(None, of, made).unwrap_err();
    assert_eq!(e.message, "token 2 has the id 201, and the vocabulary has 200");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn a_mutated_cache_file_never_gives_other_tokens(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = token_file(256, Dtype::U16, &[7, 0, 200, 0, 13, 0], |_| {});
        let i = at.index(bytes.len());
        bytes[i] ^= flip;
        if let Ok(tokens) = parse(&bytes) {
            prop_assert_eq!(tokens, [7, 200, 13]);
        }
    }
}
