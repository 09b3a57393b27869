//! Tests of weights in and out: fixed bad headers, mutated ones, shards, names, and files of other kinds.

use super::*;
use crate::error::Kind;
use proptest::prelude::*;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn tensor(shape: &[usize], first: f32) -> HostTensor {
    HostTensor { shape: shape.to_vec(), data: (0..shape.iter().product()).map(|i| first + i as f32).collect() }
}

fn model(names: &[&str]) -> Weights {
    let tensors = names.iter().enumerate().map(|(i, n)| (n.to_string(), tensor(&[2, 3], i as f32))).collect();
    Weights { tensors, ..Default::default() }
}

fn refused(bytes: &[u8], words: &str) {
    let e = read_bytes("w.safetensors", bytes, NonFinite::Refuse).unwrap_err();
    assert!(e.kind == Kind::Input && e.to_string().contains(words), "`{words}` is not in: {e}");
    let streamed = stream(bytes).unwrap_err();
    assert_eq!(streamed.kind, Kind::Input, "{streamed}");
}

/// Every tensor of a file of these bytes, one at a time.
fn stream(bytes: &[u8]) -> Result<usize> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let store = Store::open(&path)?;
    let floats: Vec<&Entry> = store.entries().filter(|e| e.dtype.is_float()).collect();
    floats.iter().try_for_each(|e| store.tensor(&e.name, NonFinite::Refuse).map(|_| ()))?;
    Ok(floats.len())
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write(&path, &model(&["a", "b"])).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.tensor("a", NonFinite::Refuse).unwrap(), tensor(&[2, 3], 0.0));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
    let e = store.tensor("b", NonFinite::Refuse).unwrap_err();
    assert!(e.kind == Kind::Input && e.to_string().contains("was changed"), "{e}");
}

#[test]
fn every_half_is_written_as_it_was_read_and_others_are_rounded_to_the_nearest() {
    for bits in (0..0x7c00u16).chain(0x8000..0xfc00) {
        assert_eq!(to_dtype(&[from_f16(bits)], Dtype::F16), bits.to_le_bytes(), "{bits:#x}");
    }
    for bits in (0..=0x7f80u16).chain(0x8000..=0xff80) {
        let value = f32::from_bits(u32::from(bits) << 16);
        assert_eq!(to_dtype(&[value], Dtype::Bf16), bits.to_le_bytes(), "{bits:#x}");
    }
    // Halfway between two neighbours the even one is taken; above the largest comes infinity.
    for (value, half) in
        [(1.0 + 1.0 / 2048.0, 0x3c00u16), (1.0 + 3.0 / 2048.0, 0x3c02), (65519.0, 0x7bff), (65520.0, 0x7c00)]
    {
        assert_eq!(to_dtype(&[value], Dtype::F16), half.to_le_bytes(), "{value}");
    }
    assert_eq!(to_dtype(&[f32::from_bits(0x3f80_8000)], Dtype::Bf16), 0x3f80u16.to_le_bytes());
    assert_eq!(to_dtype(&[f32::from_bits(0x3f81_8000)], Dtype::Bf16), 0x3f82u16.to_le_bytes());
    let nan = to_dtype(&[f32::NAN], Dtype::Bf16);
    assert!(f32::from_bits(u32::from(u16::from_le_bytes([nan[0], nan[1]])) << 16).is_nan());
}

#[test]
fn written_weights_come_back_and_equal_weights_give_equal_bytes() {
    let mut weights = model(&["b", "a", "Z"]);
    weights.tensors.insert("scalar".into(), tensor(&[], 7.0));
    weights.tensors.insert("none".into(), tensor(&[0, 4], 0.0));
    weights.metadata = [("note", "naïve \"x\""), ("format", "pt")].map(|(k, v)| (k.into(), v.into())).into();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write(&path, &weights).unwrap();
    let back = read(&path, NonFinite::Refuse).unwrap();
    assert_eq!(back, weights);
    assert_eq!(to_bytes(&back).unwrap(), std::fs::read(&path).unwrap());
    assert_eq!(read_ints(&path).unwrap().len(), 0);
}

#[test]
fn every_half_and_brain_float_has_its_value() {
    for (bits, value) in
        [(0u16, 0.0), (0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (1, 5.960_464_5e-8), (0x0400, 6.103_515_6e-5)]
    {
        assert_eq!(from_f16(bits), value);
    }
    assert!(from_f16(0x7e00).is_nan() && from_f16(0xfc00) == f32::NEG_INFINITY && from_f16(0x8000).is_sign_negative());
    assert!((0..0x7c00).all(|b| from_f16(b) < from_f16(b + 1)));
    assert_eq!(floats(Dtype::Bf16, &[0x80, 0x3f, 0x20, 0xc0]).unwrap(), [1.0, -2.5]);
}

#[test]
fn each_supported_dtype_is_read_as_float_or_integer_and_others_are_refused_by_name() {
    for (dtype, size) in [
        ("F64", 8),
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("I64", 8),
        ("I32", 4),
        ("I16", 2),
        ("I8", 1),
        ("U8", 1),
        ("BOOL", 1),
    ] {
        let bytes =
            file(&format!(r#"{{"x":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,{}]}}}}"#, 3 * size), 3 * size);
        let weights = read_bytes("w", &bytes, NonFinite::Refuse).unwrap();
        assert_eq!(weights.tensors.len(), usize::from(dtype.contains('F')));
        assert_eq!(weights.integers.len(), usize::from(!dtype.contains('F')));
    }
    for dtype in ["F8_E4M3", "F4", "U64", "f32", "", "a very long name that is no dtype"] {
        refused(
            &file(&format!(r#"{{"x":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,3]}}}}"#), 3),
            "tensor `x`: dtype",
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i");
    let mut bytes = file(r#"{"n":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#, 0);
    bytes.extend([-5i32, 9].iter().flat_map(|i| i.to_le_bytes()));
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read_ints(&path).unwrap()["n"], HostInts { shape: vec![2], data: vec![-5, 9] });
}

#[test]
fn each_wrong_header_length_is_named() {
    for (length, words) in [
        (0, "the header length is 0"),
        (1, "the header length is 1"),
        (7, "header: "),
        (1000, "only 60 bytes follow"),
        (100_000_001, "at most 100000000"),
        (1 << 63, "at most"),
        (u64::MAX, "at most"),
    ] {
        let mut bytes = file(r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#, 4);
        bytes.truncate(68);
        bytes[..8].copy_from_slice(&u64::to_le_bytes(length));
        refused(&bytes, words);
    }
    refused(b"abc", "it has 3 bytes");
}

#[test]
fn each_fault_of_the_header_text_is_named() {
    let entry = r#""x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for (header, words) in [
        (format!(" {{{entry}}}"), "does not begin with `{`"),
        (format!("{{{entry}}}x"), "trailing characters"),
        (format!("{{{entry},{entry}}}"), "duplicate tensor `x`"),
        (format!("{{{entry},{}}}", entry.replace("[0,4]", "[4,8]")), "duplicate tensor `x`"),
        (r#"{"__metadata__":{"a":"1","a":"1"}}"#.into(), "duplicate key `a`"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), "duplicate tensor `__metadata__`"),
        (r#"{"__metadata__":{"a":1}}"#.into(), "expected a string"),
        ("{\"x\":1}".into(), "header: invalid type"),
        (r#"{"x":{"dtype":"F32","shape":[1]}}"#.into(), "missing field `data_offsets`"),
        (r#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.into(), "invalid value"),
        (r#"{"x":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#.into(), "invalid type"),
        (r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#.into(), "header: "),
        (format!(r#"{{"x":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(64)), "more than 64"),
        (format!("{{\"x\":{}", "[".repeat(100_000)), "header: "),
        ("[]".into(), "is JSON text"),
    ] {
        let bytes = file(&header, 4);
        let e = read_bytes("w", &bytes, NonFinite::Refuse).unwrap_err().to_string();
        assert!(e.contains(words) || (words == "is JSON text" && e.contains("`{`")), "`{words}` is not in: {e}");
    }
    let mut bytes = file(&format!("{{{entry}}}"), 4);
    bytes[10] = 0xff;
    refused(&bytes, "not UTF-8");
}

#[test]
fn each_fault_of_the_offsets_is_named_with_its_tensor() {
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[1],"data_offsets":{b}}}}}"#
        )
    };
    for (header, data, words) in [
        (two("[0,4]", "[0,4]"), 8, "tensor `b`: its data starts at 0 and overlaps"),
        (two("[0,4]", "[2,6]"), 6, "tensor `b`: its data starts at 2 and overlaps"),
        (two("[0,4]", "[8,12]"), 12, "tensor `b`: its data starts at 8 and leaves a hole"),
        (two("[4,8]", "[8,12]"), 12, "tensor `a`: its data starts at 4 and leaves a hole"),
        (two("[0,4]", "[8,4]"), 8, "tensor `b`: its data ends at 4, before"),
        (two("[0,4]", "[4,8]"), 7, "tensor `b`: its data ends at 8, and the file has 7"),
        (two("[0,4]", "[4,8]"), 9, "the tensors end at 8, and the file has 9"),
        (two("[0,4]", "[4,18446744073709551615]"), 8, "tensor `b`"),
        (two("[0,4]", "[4,7]"), 7, "takes 4 bytes, and 3 are given"),
        (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.into(), 0, "overflows"),
        (r#"{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#.into(), 0, "overflows"),
        (r#"{"a":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,4]}}"#.into(), 4, "takes 0 bytes"),
    ] {
        refused(&file(&header, data), words);
    }
}

/// Found by fuzzing: the reader that streams passed over an unknown field, and the library failed on the number in it.
#[test]
fn rfuzz_1_an_unknown_field_of_an_entry_is_refused_by_both_readers() {
    let entry = r#"{"x":{"dtype":"F32","shape":[0],"extra":[1e999],"data_offsets":[0,0]}}"#;
    refused(&file(entry, 0), "x");
}

/// safetensors #808: in overflow-checked builds the library panics where the ends sum to 2^64 - 8.
#[test]
fn r808_eight_tensors_that_sum_to_nearly_two_to_the_64_are_refused() {
    let step = (u64::MAX - 7) / 8;
    let entries: Vec<String> = (0..8)
        .map(|i| {
            format!(r#""t{i}":{{"dtype":"U8","shape":[{step}],"data_offsets":[{},{}]}}"#, i * step, (i + 1) * step)
        })
        .collect();
    refused(&file(&format!("{{{}}}", entries.join(",")), 0), "tensor `t0`: its data ends at");
}

#[test]
fn values_that_are_not_finite_are_counted_per_tensor_and_allowed_on_demand() {
    let mut weights = model(&["a", "b"]);
    weights.tensors.get_mut("b").unwrap().data[..2].copy_from_slice(&[f32::NAN, f32::INFINITY]);
    let bytes = to_bytes(&weights).unwrap();
    refused(&bytes, "`b`: 2 of 6 values");
    assert!(read_bytes("w", &bytes, NonFinite::Allow).unwrap().tensors["b"].data[0].is_nan());
}

#[test]
fn a_file_of_another_kind_is_recognised_by_its_content() {
    for (bytes, what, hint) in [
        (&b""[..], "is empty", "load it again"),
        (b"PK\x03\x04\0\0\0\0\0\0\0\0", "PyTorch pickle", "torch.load"),
        (b"\x80\x02}q\0X\x01\0\0\0", "PyTorch pickle", "weights_only=True"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF", "quantised"),
        (b"\n<!DOCTYPE html><html>", "a web page", "login"),
        (b"<HTML><body>404", "a web page", "login"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer", "git lfs pull"),
        (b"{\"error\":\"gated repo\"}", "JSON text", "error message"),
    ] {
        let e = read_bytes("pytorch_model.bin", bytes, NonFinite::Refuse).unwrap_err();
        assert!(e.message.contains(what) && e.hint.as_deref().unwrap().contains(hint), "{e}");
    }
    // A header of 640 bytes begins like a pickle and is none.
    let header = format!("{{{:>639}", "}");
    assert_eq!(read_bytes("w", &file(&header, 0), NonFinite::Refuse).unwrap(), Weights::default());
}

fn index(dir: &Path, map: &[(&str, &str)]) -> std::path::PathBuf {
    let map: BTreeMap<_, _> = map.iter().copied().collect();
    std::fs::write(dir.join(INDEX), serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    dir.join(INDEX)
}

#[test]
fn shards_are_read_as_one_model() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("m-1.safetensors"), &model(&["a", "b"])).unwrap();
    write(&dir.path().join("m-2.safetensors"), &model(&["c"])).unwrap();
    index(dir.path(), &[("a", "m-1.safetensors"), ("b", "m-1.safetensors"), ("c", "m-2.safetensors")]);
    assert_eq!(read_model(dir.path(), NonFinite::Refuse).unwrap().tensors.len(), 3);
}

#[test]
fn one_file_beside_an_index_is_read_where_both_hold_the_same_tensors_and_refused_where_not() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("m-1.safetensors"), &model(&["a"])).unwrap();
    write(&dir.path().join("m-2.safetensors"), &model(&["b"])).unwrap();
    index(dir.path(), &[("a", "m-1.safetensors"), ("b", "m-2.safetensors")]);
    assert!(Store::open(dir.path()).unwrap().notes.is_empty());
    for other in [&["one"][..], &["a"], &["a", "b", "c"]] {
        write(&dir.path().join(SINGLE), &model(other)).unwrap();
        let e = read_model(dir.path(), NonFinite::Refuse).unwrap_err();
        assert!(e.message.contains(SINGLE) && e.message.contains(INDEX) && e.hint.is_some(), "{e}");
    }
    write(&dir.path().join(SINGLE), &model(&["a", "b"])).unwrap();
    assert_eq!(read_model(dir.path(), NonFinite::Refuse).unwrap().tensors.len(), 2);
    let store = Store::open(dir.path()).unwrap();
    assert!(!store.sharded && store.notes[0].contains("model.safetensors is read"), "{:?}", store.notes);
}

#[test]
fn an_index_that_disagrees_with_its_files_is_refused_with_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("m-1.safetensors"), &model(&["a", "b"])).unwrap();
    write(&dir.path().join("m-2.safetensors"), &model(&["c"])).unwrap();
    for (map, words) in [
        (&[("a", "m-2.safetensors"), ("b", "m-1.safetensors")][..], "tensor `a` is in m-1.safetensors"),
        (&[("a", "m-1.safetensors"), ("z", "m-2.safetensors")], "tensor `z` is not in m-2.safetensors"),
        (&[("a", "m-3.safetensors")], "m-3.safetensors does not exist"),
        (&[], "its weight_map is empty"),
    ] {
        let e = read_model(&index(dir.path(), map), NonFinite::Refuse).unwrap_err();
        assert!(e.kind == Kind::Input && e.to_string().contains(words), "`{words}` is not in: {e}");
    }
    let twice = r#"{"weight_map":{"a":"m-1.safetensors","a":"m-2.safetensors"}}"#;
    std::fs::write(dir.path().join(INDEX), twice).unwrap();
    assert!(read_model(dir.path(), NonFinite::Refuse).unwrap_err().to_string().contains("duplicate key `a`"));
}

#[test]
fn no_name_in_an_index_leads_out_of_its_directory() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    std::fs::create_dir_all(dir.join("a")).unwrap();
    write(&root.path().join("x.safetensors"), &model(&["a"])).unwrap();
    write(&dir.join("a/x.safetensors"), &model(&["a"])).unwrap();
    let outside = root.path().join("x.safetensors").display().to_string();
    let long = format!("{}.safetensors", "x".repeat(300));
    for name in [
        "../x.safetensors",
        "a/../../x.safetensors",
        "a/x.safetensors",
        "./x.safetensors",
        &outside,
        "/etc/passwd",
        "C:\\x.safetensors",
        "..\\x.safetensors",
        "x\0.safetensors",
        "",
        ".",
        "..",
        ".safetensors",
        "-x.safetensors",
        &long,
        "․․/x.safetensors",
        "．．／x.safetensors",
        "~/x.safetensors",
        "x.safetensors/",
        "x.bin",
        "%2e%2e%2fx.safetensors",
        "file:x.safetensors",
    ] {
        let e = read_model(&index(&dir, &[("a", name)]), NonFinite::Refuse).unwrap_err();
        assert!(e.message.contains("is not a plain file name"), "{name:?}: {e}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_directory_is_refused_unless_it_leads_to_the_blobs_of_a_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (root.path().join("m/blobs"), root.path().join("m/snapshots/abc"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    write(&blobs.join("0123"), &model(&["a"])).unwrap();
    write(&root.path().join("secret"), &model(&["a"])).unwrap();
    std::os::unix::fs::symlink("../../blobs/0123", snapshot.join("x.safetensors")).unwrap();
    std::os::unix::fs::symlink("../../../secret", snapshot.join("y.safetensors")).unwrap();
    read_model(&index(&snapshot, &[("a", "x.safetensors")]), NonFinite::Refuse).unwrap();
    let e = read_model(&index(&snapshot, &[("a", "y.safetensors")]), NonFinite::Refuse).unwrap_err();
    assert!(e.message.contains("leads out of its directory"), "{e}");
}

fn wanted(names: &[&str]) -> BTreeMap<String, Vec<usize>> {
    names.iter().map(|n| (n.to_string(), vec![2, 3])).collect()
}

#[test]
fn names_that_fit_pass_and_extra_ones_only_when_ignored() {
    let found = model(&["a.weight", "b.weight", "c.bias"]);
    match_names(&wanted(&["a.weight", "b.weight", "c.bias"]), &found, false).unwrap();
    match_names(&wanted(&["a.weight", "b.weight"]), &found, true).unwrap();
    let e = match_names(&wanted(&["a.weight", "b.weight"]), &found, false).unwrap_err().to_string();
    assert!(e.contains("1 extra") && e.contains("extra `c.bias`") && e.contains("ignore_extra = true"), "{e}");
}

#[test]
fn a_missing_name_is_shown_with_the_nearest_and_a_shape_with_both() {
    let mut found = model(&["layers.0.attn.weight", "norm.gama"]);
    found.tensors.get_mut("layers.0.attn.weight").unwrap().shape = vec![6];
    let e = match_names(&wanted(&["layers.0.attn.weight", "norm.gamma"]), &found, false).unwrap_err().to_string();
    assert!(e.contains("1 missing, 1 of wrong shape, 1 extra"), "{e}");
    assert!(e.contains("missing `norm.gamma`; the file has `norm.gama`"), "{e}");
    assert!(e.contains("`layers.0.attn.weight` has shape [6], and [2, 3] is needed"), "{e}");
}

#[test]
fn one_prefix_on_all_names_is_said_in_one_line() {
    let plain: Vec<String> = (0..148).map(|i| format!("layers.{i}.weight")).collect();
    let ema: Vec<String> = plain.iter().map(|n| format!("ema.model.{n}")).collect();
    let (plain, ema) =
        (plain.iter().map(String::as_str).collect::<Vec<_>>(), ema.iter().map(String::as_str).collect::<Vec<_>>());
    let e = match_names(&wanted(&plain), &model(&ema), false).unwrap_err();
    assert_eq!(e.causes, ["all 148 unknown names of the file start with `ema.model.`"]);
    let e = match_names(&wanted(&ema), &model(&plain), false).unwrap_err();
    assert!(e.causes[0].starts_with("all 148 missing names start with `ema.model.`"), "{e}");
}

#[test]
fn a_long_list_has_at_most_ten_lines_and_shows_every_kind() {
    let names: Vec<String> = (0..60).map(|i| format!("quite.other.{i}")).collect();
    let own: Vec<String> = (0..60).map(|i| format!("x{i}")).collect();
    let found = model(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let e = match_names(&wanted(&own.iter().map(String::as_str).collect::<Vec<_>>()), &found, false).unwrap_err();
    assert_eq!(e.causes.len(), 10);
    assert!(
        e.causes.iter().any(|c| c.starts_with("missing")) && e.causes.iter().any(|c| c.starts_with("extra")),
        "{e}"
    );
    assert_eq!(e.causes[9], "and 111 more");
}

/// A header with plausible entries whose numbers, names and types are each now and then wrong.
fn mutated_header() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 0u64..40, 1 => Just(u64::MAX), 1 => any::<u64>()];
    let dtype = prop_oneof![6 => Just("F32"), 2 => Just("BF16"), 1 => Just("I64"), 1 => Just("X")];
    let entry = ("[a-c]{1,2}", dtype, prop::collection::vec(number.clone(), 0..4), number.clone(), number, 0..6);
    let entries = prop::collection::vec(entry, 0..5);
    (entries, 0usize..60, prop::option::of((any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(entries, data, flip)| {
            let mut at = 0u64;
            let text: Vec<String> = entries
                .into_iter()
                .map(|(name, dtype, shape, start, end, honest)| {
                    let size = shape.iter().try_fold(if dtype == "F32" { 4u64 } else { 2 }, |p, d| p.checked_mul(*d));
                    let (start, end) = match size.and_then(|s| at.checked_add(s)) {
                        Some(next) if honest > 0 => (std::mem::replace(&mut at, next), next),
                        _ => (start, end),
                    };
                    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
                })
                .collect();
            let mut bytes = file(&format!("{{{}}}", text.join(",")), if at < 100_000 { at as usize } else { data });
            if let Some((i, byte)) = flip {
                let i = i.index(bytes.len());
                bytes[i] = byte;
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn a_mutated_file_is_an_error_or_valid_and_never_a_panic(bytes in mutated_header()) {
        let ours = header::check("w", &bytes);
        let library = std::panic::catch_unwind(|| SafeTensors::deserialize(&bytes).is_ok());
        // What our check lets through, the library must take without a panic.
        prop_assert!(ours.is_err() || library.is_ok_and(|ok| ok), "{:?}", ours);
        let whole = read_bytes("w", &bytes, NonFinite::Refuse);
        let streamed = stream(&bytes);
        prop_assert_eq!(whole.is_ok(), streamed.is_ok(), "{:?} but {:?}", whole.err(), streamed.err());
    }

    #[test]
    fn random_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read_bytes("w", &bytes, NonFinite::Allow).is_err());
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn an_index_of_any_text_is_an_error_and_never_a_panic(name in "\\PC{0,40}") {
        let dir = tempfile::tempdir().unwrap();
        prop_assert!(read_model(&index(dir.path(), &[("a", &name)]), NonFinite::Refuse).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn export_import_export_gives_the_same_bytes(sizes in prop::collection::btree_map("\\PC{1,8}", prop::collection::vec(0usize..5, 0..4), 0..6)) {
        let tensors = sizes.into_iter().map(|(n, s)| (n, tensor(&s, 0.5))).collect();
        let first = to_bytes(&Weights { tensors, ..Default::default() }).unwrap();
        let back = read_bytes("w", &first, NonFinite::Refuse).unwrap();
        prop_assert_eq!(to_bytes(&back).unwrap(), first);
    }
}
