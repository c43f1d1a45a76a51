//! The planned texts for containerd, table by table.

use super::*;

const MAIN: &str = "/etc/containerd/config.toml";
const OWN: &str = "/etc/containerd/conf.d/99-acctguard.toml";
const SHIM: &str = "/usr/libexec/acctguard/acctguard-runtime";
/// What Debian's package installs.
const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      conf_dir = \"/etc/cni/net.d\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/var/lib/containerd\"\n";

fn registration(is_default: bool) -> Registration {
    Registration { name: "acctguard".into(), is_default, program: SHIM.into() }
}

fn edits(texts: &[(&str, &str)], major: u32, is_default: bool) -> Result<Vec<Edit>, EngineError> {
    let configuration = read(&View::of_texts(texts.iter().copied()), Path::new(MAIN), Some(major))?;
    let default = configuration.runtimes()?.default;
    configuration.edits(&default, &registration(is_default))
}

/// The configuration after the edits, read again.
fn after(texts: &[(&str, &str)], major: u32, is_default: bool) -> (Configuration, Vec<Edit>) {
    let edits = edits(texts, major, is_default).expect("plans");
    let mut all: BTreeMap<&str, &str> = texts.iter().copied().collect();
    for edit in &edits {
        all.insert(edit.path.to_str().unwrap(), &edit.text);
    }
    (read(&View::of_texts(all), Path::new(MAIN), Some(major)).expect("reads"), edits)
}

fn paths(edits: &[Edit]) -> Vec<&str> {
    edits.iter().map(|edit| edit.path.to_str().unwrap()).collect()
}

#[test]
fn every_kind_of_configuration_comes_to_the_shim_as_default_or_beside() {
    let systemd = "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'runc'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
    for (what, texts, major, files) in [
        ("no file, containerd 1", vec![], 1, vec![MAIN]),
        ("no file, containerd 2", vec![], 2, vec![MAIN]),
        ("Debian's file: edited in place", vec![(MAIN, DEBIAN)], 1, vec![MAIN]),
        ("Debian's file under containerd 2: a drop-in and its import", vec![(MAIN, DEBIAN)], 2, vec![OWN, MAIN]),
        (
            "no section, containerd 1: a drop-in and its import",
            vec![(MAIN, "version = 2\n[grpc]\nuid = 0\n")],
            1,
            vec![OWN, MAIN],
        ),
        ("version 3 that imports: a drop-in alone", vec![(MAIN, systemd)], 2, vec![OWN]),
        ("version 1", vec![(MAIN, "[plugins.cri.containerd]\nsnapshotter = \"native\"\n")], 1, vec![MAIN]),
        ("no version at all", vec![(MAIN, "[debug]\nlevel = \"info\"\n")], 1, vec![OWN, MAIN]),
        ("an empty file", vec![(MAIN, "")], 2, vec![OWN, MAIN]),
    ] {
        for is_default in [true, false] {
            let (after, edits) = after(&texts, major, is_default);
            assert_eq!(paths(&edits), files, "{what}");
            let runtimes = after.runtimes().unwrap();
            assert_eq!(runtimes.program("acctguard"), Program::Path(SHIM.into()), "{what}");
            assert_eq!(runtimes.default == "acctguard", is_default, "{what}");
            let runtime = toml_text::table(&after.effective, &["runtimes", "acctguard"]).unwrap();
            assert_eq!(
                runtime["pod_annotations"],
                Value::from(vec!["acctguard.io/*", "kubernetes.io/config.*"]),
                "{what}"
            );
        }
    }
}

#[test]
fn the_options_of_the_runtime_in_use_are_carried_over() {
    let text = "version = 2\n# ours\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  default_runtime_name = \"crun\" # why\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\n    runtime_type = \"io.containerd.runc.v2\"\n    pod_annotations = [\"a.b/*\"]\n    privileged_without_host_devices = true\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun.options]\n      BinaryName = \"/usr/bin/crun\"\n      SystemdCgroup = true\n";
    let (after, edits) = after(&[(MAIN, text)], 1, true);
    assert_eq!(after.runtimes().unwrap().program("crun"), Program::Path("/usr/bin/crun".into()));
    let runtime = toml_text::table(&after.effective, &["runtimes", "acctguard"]).unwrap();
    assert_eq!(runtime["options"]["SystemdCgroup"], Value::Boolean(true));
    assert_eq!(runtime["options"]["BinaryName"], Value::from(SHIM));
    assert_eq!(runtime["pod_annotations"], Value::from(vec!["a.b/*", "acctguard.io/*", "kubernetes.io/config.*"]));
    assert_eq!(runtime["privileged_without_host_devices"], Value::Boolean(true));
    let edited = &edits[0].text;
    assert!(edited.contains("# ours\n") && edited.contains("default_runtime_name = \"acctguard\" # why\n"), "{edited}");
    let kept = text.lines().filter(|line| !line.contains("default_runtime_name"));
    assert!(kept.into_iter().all(|line| edited.contains(line)), "{edited}");
}

#[test]
fn a_drop_in_has_the_version_of_the_main_file() {
    for (text, expected) in
        [("version = 2\n", Some(2)), ("version = 3\n", Some(3)), ("version = 4\n", Some(4)), ("", Some(3))]
    {
        let edits = edits(&[(MAIN, text)], 2, true).unwrap();
        let own: Table = toml::from_str(&edits[0].text).unwrap();
        assert_eq!(version(&own), expected, "{text}");
        let key = section(&own).unwrap();
        assert_eq!(key == SECTIONS[0], expected >= Some(3), "{key}");
        assert!(edits[0].text.starts_with(OWN_HEADER) && edits[0].is_own && !edits[1].is_own);
    }
}

#[test]
fn the_import_keeps_what_was_imported() {
    let edits = edits(&[(MAIN, "version = 3\nimports = [\n  \"/a.toml\", # one\n]\n")], 2, true).unwrap();
    assert_eq!(edits[1].text, format!("version = 3\nimports = [\"/a.toml\", \"{OWN}\"]\n"));
}

#[test]
fn under_containerd_1_the_last_section_holds_and_is_edited() {
    let main = "version = 2\nimports = [\"/etc/containerd/more/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"lost\"\n";
    let more = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"x\"\n";
    let texts = [(MAIN, main), ("/etc/containerd/more/a.toml", more), ("/etc/containerd/more/b.txt", "[")];
    let configuration = read(&View::of_texts(texts), Path::new(MAIN), Some(1)).unwrap();
    assert_eq!(configuration.runtimes().unwrap().default, "runc", "the main file's section is replaced");
    assert_eq!(paths(&edits(&texts, 1, true).unwrap()), ["/etc/containerd/more/a.toml"]);
    let merged = read(&View::of_texts(texts), Path::new(MAIN), Some(2)).unwrap();
    assert_eq!(merged.runtimes().unwrap().default, "lost");
    assert_eq!(paths(&edits(&texts, 2, true).unwrap()), ["/etc/containerd/more/99-acctguard.toml"]);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_remedy() {
    let later = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'x'\n";
    let main = "version = 3\nimports = ['conf.d/*.toml']\n";
    for (texts, is_default, expected) in [
        (vec![(MAIN, "version = 2\n[plugins\n")], true, "/etc/containerd/config.toml:2:9: "),
        (
            vec![(MAIN, main), ("/etc/containerd/conf.d/zz.toml", later)],
            true,
            "/etc/containerd/conf.d/zz.toml is read after ",
        ),
        (
            vec![(
                MAIN,
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.default_runtime]\nruntime_type = \"x\"\n",
            )],
            true,
            "/etc/containerd/config.toml: it sets the default runtime by",
        ),
        (
            vec![(MAIN, "version = 3\nimports = ['b.toml']\n"), ("/etc/containerd/b.toml", "x")],
            false,
            "/etc/containerd/b.toml:1:",
        ),
    ] {
        let error = edits(&texts, 2, is_default).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(
        edits(&[(MAIN, main), ("/etc/containerd/conf.d/zz.toml", later)], 2, false).is_ok(),
        "beside it does not matter"
    );
}

#[test]
fn kata_is_no_program_like_runc() {
    let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n";
    let configuration = read(&View::of_texts([(MAIN, text)]), Path::new(MAIN), Some(1)).unwrap();
    assert_eq!(configuration.runtimes().unwrap().program("kata"), Program::Other("io.containerd.kata.v2".into()));
    assert!(!configuration.has_no_cri());
    let docker = read(&View::of_texts([(MAIN, "disabled_plugins = [\"cri\"]\n")]), Path::new(MAIN), Some(1)).unwrap();
    assert!(docker.has_no_cri());
}

#[test]
fn containerd_1_does_not_forget_its_own_runc() {
    let told = "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\nsandbox_mode = 'podsandbox'\nsnapshotter = ''\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]\nRoot = ''\n";
    let read =
        |major| read(&View::of_texts([(MAIN, DEBIAN)]), Path::new(MAIN), Some(major)).unwrap().with_built_in(told);
    let text = &read(1).edits("runc", &registration(true)).unwrap()[0].text;
    let table: Table = toml::from_str(text).unwrap();
    let runtimes = toml_text::table(&table, &["plugins", SECTIONS[1], "containerd", "runtimes"]).unwrap();
    let expected: Table =
        toml::from_str("runtime_type = 'io.containerd.runc.v2'\nsandbox_mode = 'podsandbox'").unwrap();
    assert_eq!(runtimes["runc"], Value::Table(expected));
    assert_eq!(runtimes["acctguard"]["sandbox_mode"], Value::from("podsandbox"));
    assert!(!read(2).forgets_built_in() && read(1).forgets_built_in());
}
