//! What is linked into the programs, as a CycloneDX 1.5 document; `packaging/build` runs it:
//! `cargo metadata … | components Cargo.lock LINKED [NAME VERSION LICENCE]…`. LINKED are the lines of `cargo tree --format '{p}'`,
//! which knows features as they are used, where `cargo metadata` mixes in those of tests; the rest are libraries that are not crates.
//!
//! Says nothing that two builds of one commit could disagree about: no time, no serial number.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

/// What is used of `cargo metadata --format-version 1`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Resolve {
    root: String,
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// What is used of `Cargo.lock`.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lock, linked, libraries @ ..] = &arguments[..] else {
        eprintln!("usage: cargo metadata --format-version 1 | components CARGO_LOCK LINKED [NAME VERSION LICENCE]...");
        return ExitCode::from(64);
    };
    match document(lock, linked, libraries) {
        Ok(document) => {
            println!("{document:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("components: {error}");
            ExitCode::FAILURE
        }
    }
}

fn document(lock: &str, tree: &str, libraries: &[String]) -> Result<Value, Box<dyn std::error::Error>> {
    let metadata: Metadata = serde_json::from_reader(std::io::stdin().lock())?;
    let lock: Lock = toml::from_str(&fs::read_to_string(lock)?)?;
    let checksum = |package: &Package| {
        let mut locked = lock.package.iter();
        let same = locked.find(|locked| locked.name == package.name && locked.version == package.version);
        same.and_then(|locked| locked.checksum.clone())
    };
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let tree = fs::read_to_string(tree)?;
    let in_tree: BTreeSet<(&str, &str)> = tree.lines().filter_map(named_in_tree).collect();
    let is_linked = |id: &str| {
        packages.get(id).is_some_and(|package| in_tree.contains(&(package.name.as_str(), package.version.as_str())))
    };
    let edges = linked(&metadata, is_linked);
    let root = packages.get(metadata.resolve.root.as_str()).ok_or("cargo metadata names no root package")?;
    let mut components: Vec<Value> = Vec::new();
    for id in edges.keys().filter(|id| **id != root.id) {
        let package = packages.get(id).ok_or_else(|| format!("cargo metadata does not describe {id}"))?;
        let hash = checksum(package).ok_or_else(|| format!("Cargo.lock has no checksum of {}", package.name))?;
        components.push(component(package, &hash));
    }
    let names: Vec<&[String]> = libraries.chunks_exact(3).collect();
    for library in &names {
        components.push(json!({"type": "library", "bom-ref": library[0], "name": library[0], "version": library[1],
            "licenses": [{"expression": library[2]}], "scope": "required"}));
    }
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let reference = |id: &str| packages.get(id).map_or_else(|| id.to_owned(), |package| purl(package));
    let mut dependencies: Vec<Value> = Vec::new();
    for (id, needed) in &edges {
        let mut needed: Vec<String> = needed.iter().map(|id| reference(id)).collect();
        if *id == root.id {
            needed.extend(names.iter().map(|library| library[0].clone()));
        }
        needed.sort();
        dependencies.push(json!({"ref": reference(id), "dependsOn": needed}));
    }
    dependencies.sort_by_key(|dependency| dependency["ref"].to_string());
    let mut application = component(root, "");
    application["type"] = json!("application");
    Ok(json!({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": application}, "components": components, "dependencies": dependencies}))
}

/// Every package that the root needs to run or to be compiled with (macros), and which it needs itself; what only build scripts
/// and tests need is left out.
fn linked(metadata: &Metadata, is_linked: impl Fn(&str) -> bool) -> BTreeMap<&str, BTreeSet<&str>> {
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut found = BTreeMap::new();
    let mut left = vec![metadata.resolve.root.as_str()];
    while let Some(id) = left.pop() {
        if found.contains_key(id) {
            continue;
        }
        let needed = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        let needed = needed.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        let needed: BTreeSet<&str> =
            needed.map(|dependency| dependency.pkg.as_str()).filter(|id| is_linked(id)).collect();
        left.extend(&needed);
        found.insert(id, needed);
    }
    found
}

/// Name and version of a line as `serde v1.0.228 (proc-macro)`.
fn named_in_tree(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn component(package: &Package, hash: &str) -> Value {
    let is_macro = package.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"));
    let mut component = json!({"type": "library", "bom-ref": purl(package), "name": package.name,
        "version": package.version, "purl": purl(package), "scope": if is_macro { "excluded" } else { "required" }});
    if let Some(license) = &package.license {
        // the older spelling of OR, which is no SPDX expression
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if !hash.is_empty() {
        component["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
    }
    component
}
