//! The schema and the parser over the same documents: a table, and random ones.

use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::prelude::*;

use super::*;
use crate::model::policy::parse::parse_documents;

/// The schema with what the server sees to itself: unknown fields, the name and the maps of `metadata`.
fn as_the_server_checks() -> Validator {
    let mut schema = document();
    let metadata = &mut schema["properties"]["metadata"];
    metadata["required"] = json!(["name"]);
    for map in ["labels", "annotations"] {
        metadata["properties"][map] = json!({"type": "object", "additionalProperties": {"type": "string"}});
    }
    close(&mut schema);
    jsonschema::validator_for(&schema).expect("a schema")
}

fn close(schema: &mut Value) {
    if schema.get("properties").is_some() {
        schema["additionalProperties"] = json!(false);
    }
    match schema {
        Value::Object(members) => members.values_mut().for_each(close),
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Whether the schema takes it, and whether `policy check` does. JSON is YAML.
fn judged(validator: &Validator, document: &Value) -> (bool, bool) {
    (validator.is_valid(document), parse_documents("p.yaml", &document.to_string()).is_ok())
}

fn whole(spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn schema_and_check_agree() {
    let validator = as_the_server_checks();
    let good = |value: Value| (value, true);
    let bad = |value: Value| (value, false);
    let specs = [
        good(json!({"mode": "off"})),
        good(json!({"mode": "audit", "landlock": "required", "exec": "sealed", "onUnprotected": "record"})),
        bad(json!({"mode": "loud"})),
        bad(json!({})),
        bad(json!({"mode": "audit", "modes": "x"})),
        bad(json!({"mode": "audit", "landlock": "on"})),
        bad(json!({"mode": "audit", "exec": "open"})),
        bad(json!({"mode": "audit", "onUnprotected": "ignore"})),
        good(json!({"mode": "audit", "match": {}})),
        good(json!({"mode": "audit", "match": {"namespaces": ["prod-*", "{a,b}"], "privileged": true}})),
        good(
            json!({"mode": "audit", "match": {"pods": ["a"], "containers": ["[!a]"], "engines": ["podman"], "clusters": ["\\{"]}}),
        ),
        bad(json!({"mode": "audit", "match": {"namespace": ["a"]}})),
        bad(json!({"mode": "audit", "match": {"namespaces": []}})),
        bad(json!({"mode": "audit", "match": {"namespaces": "a"}})),
        bad(json!({"mode": "audit", "match": {"images": ["[a"]}})),
        bad(json!({"mode": "audit", "match": {"images": [""]}})),
        bad(json!({"mode": "audit", "match": {"images": ["[!]"]}})),
        bad(json!({"mode": "audit", "match": {"images": ["a\\"]}})),
        good(json!({"mode": "audit", "match": {"annotations": {"team": "a*"}}})),
        bad(json!({"mode": "audit", "match": {"annotations": {"team": ""}}})),
        bad(json!({"mode": "audit", "match": {"annotations": ["team"]}})),
        bad(json!({"mode": "audit", "match": {"privileged": "maybe"}})),
        good(json!({"mode": "audit", "databases": []})),
        good(json!({"mode": "audit", "databases": ["/opt/app/users", "/srv/.a/..b/"]})),
        bad(json!({"mode": "audit", "databases": ["etc/passwd"]})),
        bad(json!({"mode": "audit", "databases": ["/a/../b"]})),
        bad(json!({"mode": "audit", "databases": ["/"]})),
        bad(json!({"mode": "audit", "databases": ["/a//b"]})),
        good(json!({"mode": "enforce", "allow": []})),
        good(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"names": ["app"], "uid": "self"},
            "changes": ["account_added"], "by": ["/usr/local/bin/entrypoint.sh"], "within": "60s"}]})),
        bad(json!({"mode": "enforce", "allow": [{"accounts": {"uid": "self"}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": " "}]})),
        good(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": 0}}]})),
        good(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": 4_294_967_295_u32}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": 4_294_967_296_u64}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": -1}}]})),
        good(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": "1000 - 1999"}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": "0-9"}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": "4294967296"}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": "root"}}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "changes": ["user_added"]}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "changes": []}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "by": ["useradd"]}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "by": ["/bin/"]}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "within": 5}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "within": "0s"}]})),
        bad(json!({"mode": "enforce", "allow": [{"reason": "r", "within": "5 m"}]})),
        good(json!({"mode": "audit", "creation": {}})),
        good(json!({"mode": "audit", "creation": {"creators": ["uid:0"], "images": ["*"], "onUnexpected": "refuse"}})),
        bad(json!({"mode": "audit", "creation": {"onUnexpected": "kill"}})),
        bad(json!({"mode": "audit", "creation": {"creator": ["uid:0"]}})),
    ];
    let mut documents: Vec<(Value, bool)> = specs.into_iter().map(|(spec, taken)| (whole(spec), taken)).collect();
    let spec = json!({"mode": "audit"});
    for (changed, taken) in [
        (json!({"metadata": {"name": "a.b-c", "labels": {"a": "b"}, "annotations": {"c": "d"}}}), true),
        (json!({"metadata": {"name": "built-in"}}), false),
        (json!({"metadata": {"name": "A b"}}), false),
        (json!({"metadata": {"name": "-a"}}), false),
        (json!({"metadata": {"name": "a".repeat(254)}}), false),
        (json!({"metadata": {}}), false),
        (json!({"metadata": {"name": "p", "owner": "x"}}), false),
        (json!({"apiVersion": "v2"}), false),
        (json!({"kind": "Pod"}), false),
        (json!({"status": {}}), false),
        (json!({"spec": "audit"}), false),
    ] {
        let mut document = whole(spec.clone());
        document.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        documents.push((document, taken));
    }
    for (document, taken) in documents {
        assert_eq!(judged(&validator, &document), (taken, taken), "schema, check of {document}");
    }
}

#[test]
fn what_a_schema_cannot_say_is_told_by_the_node() {
    let validator = as_the_server_checks();
    for spec in [
        json!({"mode": "enforce", "allow": [{"reason": "r", "accounts": {"uid": "9-1"}}]}),
        json!({"mode": "audit", "match": {"images": ["[z-a]"]}}),
    ] {
        assert_eq!(judged(&validator, &whole(spec.clone())), (true, false), "{spec}");
    }
    for spec in [
        json!({"mode": "audit", "match": {"images": ["{a,{b,{c,d}}}"]}}),
        json!({"mode": "audit", "match": {"namespaces": [1]}}),
    ] {
        assert_eq!(judged(&validator, &whole(spec.clone())), (false, true), "{spec}");
    }
}

#[test]
fn the_schema_is_structural() {
    fn walk(schema: &Value, path: &str) {
        let Some(members) = schema.as_object() else { return };
        let typed = members.contains_key("type") || members.contains_key("x-kubernetes-int-or-string");
        assert!(typed, "{path} has no type");
        assert!(
            !(members.contains_key("properties") && members.contains_key("additionalProperties")),
            "{path}: properties and additionalProperties exclude one another"
        );
        for (name, child) in members.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(child, &format!("{path}.{name}"));
        }
        for key in ["items", "additionalProperties"] {
            members.get(key).into_iter().for_each(|child| walk(child, &format!("{path}.{key}")));
        }
    }
    let schema = document();
    walk(&schema, "");
    let metadata = schema["properties"]["metadata"].as_object().unwrap();
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["type", "properties"], "only the name may be restricted");
}

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![3 => prop::sample::select(choices).prop_map(|word| json!(word)), 1 => "[a-c\\[\\]{}!^*?/.,\\\\ +0-9-]{0,5}".prop_map(|word| json!(word))]
}

fn list(choices: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::collection::vec(text(choices), 0..3).prop_map(Value::from)
}

fn object(members: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let members: Vec<_> = members
        .into_iter()
        .map(|(name, value)| prop::option::weighted(0.4, value).prop_map(move |value| value.map(|value| (name, value))))
        .collect();
    members
        .prop_map(|members| {
            Value::Object(members.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect())
        })
        .boxed()
}

fn any_spec() -> BoxedStrategy<Value> {
    const GLOBS: &[&str] = &["a*", "{a,b}", "[!a]", "**/b", "[]a]", "a,b"];
    let globs = || list(GLOBS).boxed();
    let matching = object(vec![
        ("namespaces", globs()),
        ("images", globs()),
        ("annotations", object(vec![("team", text(GLOBS).boxed())])),
        ("privileged", any::<bool>().prop_map(Value::from).boxed()),
        ("unknown", globs()),
    ]);
    let exception = object(vec![
        ("reason", text(&["because", " ", "r"]).boxed()),
        (
            "accounts",
            object(vec![("names", globs()), ("uid", text(&["self", "1000-1999", "0", "0-0", "+5", " 7 "]).boxed())]),
        ),
        ("changes", list(&KINDS).boxed()),
        ("by", list(&["/bin/a", "/bin/.a", "/..b", "/bin/"]).boxed()),
        ("within", text(&["5s", "10m", "0h", "007d"]).boxed()),
    ]);
    let rest = object(vec![
        ("landlock", text(&["required", "preferred", "off"]).boxed()),
        ("exec", text(&["brokered", "sealed"]).boxed()),
        ("onUnprotected", text(&["refuse", "record"]).boxed()),
        ("databases", list(&["/a", "/a/b/", "/.a/..b", "/a/./b"]).boxed()),
        ("match", matching),
        ("allow", prop::collection::vec(exception, 0..2).prop_map(Value::from).boxed()),
        ("creation", object(vec![("images", globs()), ("onUnexpected", text(&["record", "refuse"]).boxed())])),
    ]);
    (text(&["off", "audit", "enforce"]), rest)
        .prop_map(|(mode, mut spec)| {
            spec["mode"] = mode;
            spec
        })
        .boxed()
}

/// What the schema cannot say, and random texts do come to.
fn beyond_the_schema(error: &str) -> bool {
    error.contains("ends before it begins") || error.contains("invalid range")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn schema_and_check_agree_on_random_documents(spec in any_spec()) {
        static VALIDATOR: LazyLock<Validator> = LazyLock::new(as_the_server_checks);
        let validator = &*VALIDATOR;
        let document = whole(spec);
        let by_schema = validator.is_valid(&document);
        match parse_documents("p.yaml", &document.to_string()) {
            Ok(_) => prop_assert!(by_schema, "the schema refuses {document}"),
            Err(error) => prop_assert!(!by_schema || beyond_the_schema(&error.to_string()), "the schema takes {document}: {error}"),
        }
    }
}
