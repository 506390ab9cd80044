//! The parser against arbitrary text, and the tools around it.

use crosspoint_schema::json::{
    LoadError, Loaded, Loader, MAX_DEPTH, Node, Object, Sources, Span, Value, compact, parse,
    parse_source,
};
use crosspoint_schema::{Config, Context};
use proptest::prelude::*;

/// Trees of every shape; keys are unique because a tree holds each key once.
fn trees() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| Value::Number(n.to_string())),
        any::<f64>()
            .prop_filter("JSON has no infinity", |n| n.is_finite())
            .prop_map(|n| Value::Number(format!("{n:e}"))),
        any::<String>().prop_map(Value::String),
    ]
    .prop_map(|value| Node::new(value, Span::default()));
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..8).prop_map(|members| {
                let mut object = Object::default();
                members.into_iter().for_each(|(key, value)| object.put(key, value));
                Value::Object(object)
            }),
        ]
        .prop_map(|value| Node::new(value, Span::default()))
    })
}

/// Text that gets further than noise does: pieces of the grammar in any order.
fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"b\\n\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d",
        "1",
        "-0.5e+3",
        "-",
        "true",
        "false",
        "null",
        "nul",
        "//x\n",
        "/*",
        "*/",
        "#",
        " ",
        "\n",
        "\"",
        "\\",
        "é",
        "\u{0}",
        "\u{feff}",
        "inbounds",
        "dns",
        "{\"inbounds\":[{\"type\":",
        "\"route\":{\"rules\":[{",
        "\"domain\"",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..60)
        .prop_map(|words| words.concat())
}

fn try_everything(text: &str) {
    if let Ok(loaded) = Loaded::from_text("x", text) {
        let cx = Context::new(loaded.sources);
        if let Ok(config) = Config::decode(&loaded.root, &cx) {
            let _ = config.canonical(|raw| raw.to_json());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_parses_to_the_same_tree(tree in trees()) {
        let text = compact(&tree);
        prop_assert_eq!(parse(&text).expect(&text), tree);
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        try_everything(&text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        try_everything(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_row_of_pieces_panics(text in pieces()) {
        try_everything(&text);
    }

    #[test]
    fn no_cut_configuration_panics(cut in 0usize..400) {
        let text = r#"{"log":{"level":"info"},"dns":{"servers":[{"address":"tls://1.1.1.1"}],"rules":[{"query_type":["A",65],
            "action":"predefined","answer":["x. IN A 1.2.3.4"]}]},"inbounds":[{"type":"mixed","listen":"::","listen_port":1}],
            "route":{"rules":[{"type":"logical","mode":"and","rules":[{"domain":"é"}],"action":"reject"}],"default_mark":"0x1"}}"#;
        if let Some(start) = text.get(..cut) {
            try_everything(start);
        }
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(parse(&nested(MAX_DEPTH + 1)).is_err());
    assert!(parse(&"[".repeat(1_000_000)).is_err());
    assert!(parse(&"{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn many_equal_keys_take_linear_time() {
    let text = format!("{{{}}}", "\"k\":1,".repeat(200_000));
    let node = parse(&text).expect("valid");
    assert_eq!(node.as_object().map(|object| object.members.len()), Some(1));
}

#[test]
fn every_span_gives_a_place() {
    let mut sources = Sources::new();
    let node =
        parse_source(&mut sources, "f.json", "{\n  // ü\n  \"é\": [true,\n 12]}").expect("valid");
    let member = node.as_object().and_then(|object| object.members.first()).expect("one member");
    let place = |span| sources.locate(span).expect("a place").to_string();
    assert_eq!(place(member.key_span), "f.json:3:3");
    assert_eq!(place(member.value.span), "f.json:3:8");
    assert_eq!(place(member.value.as_array().expect("array")[1].span), "f.json:4:2");
}

fn load(files: &[(&str, &str)]) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut paths = Vec::new();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        paths.push(path.to_string_lossy().into_owned());
    }
    let prefix = format!("{}/", folder.path().display());
    let mut stdin = || Ok(br#"{"log":{"output":"stdin"}}"#.to_vec());
    let loader = Loader { files: paths, directories: Vec::new(), stdin: &mut stdin };
    loader.load().map_err(|error| error.to_string().replace(&prefix, ""))
}

#[test]
fn files_merge_in_the_order_of_their_paths() {
    let loaded = load(&[
        ("b.json", r#"{"log":{"level":"b","output":"o"},"inbounds":[{"type":"socks"}],"route":{"final":"b"}}"#),
        ("a.json", r#"{"log":{"level":"a"},"inbounds":[{"type":"mixed"}],"route":{"rules":[{"port":1}]}}"#),
    ])
    .expect("loaded");
    assert_eq!(
        compact(&loaded.root),
        r#"{"log":{"level":"a","output":"o"},"inbounds":[{"type":"mixed"},{"type":"socks"}],"route":{"rules":[{"port":1}],"final":"b"}}"#
    );
    let second = &loaded
        .root
        .as_object()
        .expect("object")
        .get("inbounds")
        .expect("list")
        .value
        .as_array()
        .expect("array")[1];
    let place = loaded.sources.locate(second.span).expect("a place");
    assert!(place.to_string().ends_with("b.json:1:47"), "{place}");
}

#[test]
fn conflicts_of_files_are_told_as_the_reference_does() {
    let error = |files| load(files).map(|loaded| compact(&loaded.root)).expect_err("refused");
    assert_eq!(
        error(&[("a.json", r#"{"log":{}}"#), ("b.json", r#"{"log":null}"#)]),
        "merge config at b.json: merge object item log: cannot merge json object into nil"
    );
    let text = error(&[("a.json", r#"{"log":{}}"#), ("b.json", r#"{"log":3}"#)]);
    let first = text.lines().next().unwrap_or_default();
    assert!(
        first.ends_with(
            "b.json: log: json: cannot unmarshal number into Go value of type option.LogOptions"
        ),
        "{text}"
    );

    let mixed = r#"{"inbounds":[{"type":"mixed","tag":"m"}]}"#;
    let loaded = load(&[("a.json", mixed), ("b.json", mixed)]).expect("loaded");
    let error = Config::decode(&loaded.root, &Context::new(loaded.sources)).expect_err("refused");
    assert_eq!(error.summary(), "unmarshal merged config: duplicate inbound tag: m");
}

#[test]
fn stdin_and_missing_files() {
    let mut stdin = || Ok(br#"{"log":{"output":"x"}}"#.to_vec());
    let loader =
        Loader { files: vec!["stdin".to_owned()], directories: Vec::new(), stdin: &mut stdin };
    assert_eq!(compact(&loader.load().expect("loaded").root), r#"{"log":{"output":"x"}}"#);
    let mut stdin = || Ok(Vec::new());
    let loader =
        Loader { files: vec!["/no/such".to_owned()], directories: Vec::new(), stdin: &mut stdin };
    let error = loader.load().expect_err("missing");
    assert_eq!(
        error.to_string(),
        "read config at /no/such: open /no/such: no such file or directory"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let directories = vec![folder.path().to_string_lossy().into_owned()];
    let loader = Loader { files: Vec::new(), directories, stdin: &mut stdin };
    assert!(matches!(loader.load(), Err(LoadError::Nothing)));
}
