use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::config::findings::Finding;

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    (folder, path)
}

const POLICY: &str =
    "apiVersion: acctguard.io/v1alpha1\nkind: AccountPolicy\nmetadata: {name: NAME}\nspec: {mode: audit}\n";

#[test]
fn every_key_is_read() {
    let (_folder, path) = file(
        "config.toml",
        r#"
run_dir = "/run/a"
state_dir = "/var/lib/a"
policy_dir = "/etc/a"
[runtime]
path = "/usr/bin/runc"
paths = { crun = "/usr/bin/crun" }
launcher = "/usr/libexec/a/acctguard-launch"
[node]
cluster = "eu"
labels = { rack = "1" }
[supervisor]
when_absent = "start_unprotected"
[daemon]
standby = false
[witness]
kernel_audit = "switch_on"
[store]
retention_days = 7
max_mib = 10
[[sinks]]
type = "json"
path = "-"
[[sinks]]
type = "syslog"
address = "udp:log.example:514"
facility = "local3"
[[sinks]]
type = "syslog"
"#,
    );
    let config = Config::load(Some(&path)).unwrap();
    assert_eq!(config.file.as_deref(), Some(path.as_path()));
    assert_eq!(config.run_dir, Path::new("/run/a"));
    assert_eq!(config.listener_socket(), Path::new("/run/a/listener.sock"));
    assert_eq!(config.runtime_path.as_deref(), Some(Path::new("/usr/bin/runc")));
    assert_eq!(config.runtime_paths["crun"], Path::new("/usr/bin/crun"));
    assert_eq!(config.launcher.as_deref(), Some(Path::new("/usr/libexec/a/acctguard-launch")));
    assert_eq!((config.cluster.as_deref(), config.labels["rack"].as_str()), (Some("eu"), "1"));
    assert_eq!(config.when_absent, Some(WhenAbsent::StartUnprotected));
    assert_eq!(config.standby, Some(false));
    assert_eq!(config.kernel_audit, KernelAudit::SwitchOn);
    assert_eq!((config.retention_days, config.store_max_mib), (7, 10));
    assert_eq!(config.sinks.len(), 3);
    assert_eq!(config.sinks[0], SinkConfig::JsonLines { path: PathBuf::from("-") });
    let address = SyslogAddress::Udp("log.example:514".to_owned());
    assert_eq!(config.sinks[1], SinkConfig::Syslog { address, facility: "local3".to_owned() });
    let address = SyslogAddress::Unix(PathBuf::from("/dev/log"));
    assert_eq!(config.sinks[2], SinkConfig::Syslog { address, facility: "authpriv".to_owned() });
    let host = node::host(&config);
    assert!(!host.name.is_empty() && !host.kernel.is_empty() && host.boot_id.is_some());
    assert_eq!(host.cluster.as_deref(), Some("eu"));
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, place, message) in [
        ("run_dirs = \"/x\"\n", ":1:1: ", "run_dirs"),
        ("\nrun_dir = \"x\"\n", ":2:11: ", "not absolute"),
        ("run_dir = \"/x/../y\"\n", ":1:11: ", "'..'"),
        ("run_dir = 3\n", ":1:11: ", "string"),
        ("[runtime]\npaths = { \"a/b\" = \"/x\" }\n", ":2:", "base name"),
        ("[runtime]\nlauncher = \"acctguard-launch\"\n", ":2:12: ", "not absolute"),
        ("[supervisor]\nwhen_absent = \"maybe\"\n", ":2:15: ", "maybe"),
        ("[witness]\nkernel_audit = \"perhaps\"\n", ":2:16: ", "perhaps"),
        ("[store]\nretention_days = 0\n", ":2:18: ", "retention_days"),
        ("[store]\nretention_days = -1\n", ":2:18: ", ""),
        ("[[sinks]]\ntype = \"kafka\"\n", ":2:8: ", "kafka"),
        ("[[sinks]]\ntype = \"json\"\n", ":1:", "needs a path"),
        ("[[sinks]]\ntype = \"json\"\npath = \"x\"\n", ":3:8: ", "not absolute"),
        ("[[sinks]]\ntype = \"json\"\npath = \"-\"\nfacility = \"auth\"\n", ":4:12: ", "remove"),
        ("[[sinks]]\ntype = \"syslog\"\nfacility = \"loud\"\n", ":3:12: ", "loud"),
        ("[[sinks]]\ntype = \"syslog\"\naddress = \"udp:host\"\n", ":3:11: ", "udp:HOST:PORT"),
        ("[[sinks]]\ntype = \"syslog\"\naddress = \"/dev/log\"\n", ":3:11: ", "unix:/dev/log"),
        ("[[sinks]]\ntype = \"syslog\"\npath = \"/dev/log\"\n", ":3:8: ", "address"),
        ("[node\n", ":1:6: ", ""),
    ] {
        let (_folder, path) = file("config.toml", text);
        let error = Config::load(Some(&path)).expect_err(text);
        let shown = error.to_string();
        assert!(shown.contains(&format!("config.toml{place}")), "{text}: {shown}");
        assert!(shown.contains(message), "{text}: {shown}");
        assert!(!shown.contains('\n'), "{shown}");
        assert_eq!(error.diagnostic().lines().count(), 3, "{}", error.diagnostic());
    }
}

#[test]
fn what_others_can_write_is_refused() {
    let (folder, path) = file("config.toml", "");
    assert!(Config::load(Some(&path)).is_ok());
    for mode in [0o664, 0o646, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Config::load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("can be written by others") && error.contains("chmod"), "{error}");
    }
    let policies = folder.path().join("policy.d");
    std::fs::create_dir(&policies).unwrap();
    std::fs::set_permissions(&policies, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(policy_files::load(&policies).unwrap_err()[0].to_string().contains("can be written by others"));
}

#[test]
fn a_named_file_must_be_there_and_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    let error = Config::load(Some(&missing)).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    assert!(error.to_string().contains("create it or name another"), "{error}");
    assert!(Config::load(Some(folder.path())).unwrap_err().to_string().contains("not a regular file"));
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(Config::load(Some(&fifo)).unwrap_err().to_string().contains("not a regular file"));
    let (_folder, large) = file("large.toml", &"#\n".repeat(600_000));
    assert!(Config::load(Some(&large)).unwrap_err().to_string().contains("at most"));
    let (_folder, path) = file("bytes.toml", "");
    std::fs::write(&path, b"a = \"\xff\"").unwrap();
    assert!(Config::load(Some(&path)).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn policy_files_are_read_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(policy_files::load(&folder.path().join("none")), Ok(Default::default()));
    for (name, policy) in [("20-b.yml", "b"), ("10-a.yaml", "a"), (".hidden.yaml", "h"), ("notes.txt", "n")] {
        std::fs::write(folder.path().join(name), POLICY.replace("NAME", policy)).unwrap();
    }
    let names: Vec<String> =
        policy_files::load(folder.path()).unwrap().documents.into_iter().map(|document| document.name).collect();
    assert_eq!(names, ["a", "b"]);
    std::fs::write(folder.path().join("30.yaml"), POLICY.replace("NAME", "a")).unwrap();
    std::fs::write(folder.path().join("40.yaml"), "nonsense").unwrap();
    let errors = policy_files::load(folder.path()).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].to_string().contains("40.yaml:1:1"), "{errors:?}");
    assert!(errors[1].to_string().contains("30.yaml:1:1: policy name \"a\" is taken"), "{errors:?}");
}

#[test]
fn findings_say_what_is_wrong_and_what_is_worth_knowing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("1.yaml", &POLICY.replace("NAME", "all"));
    write(
        "2.yaml",
        &POLICY.replace("NAME", "late").replace("{mode: audit}", "{mode: enforce, exec: sealed, allow: [{reason: r}]}"),
    );
    let config = Config {
        policy_dir: folder.path().to_path_buf(),
        runtime_path: Some(PathBuf::from("/no/such/runc")),
        launcher: Some(PathBuf::from("/no/such/launcher")),
        ..Config::defaults()
    };
    let checked = check(&config);
    assert!(checked.is_usable());
    assert_eq!(checked.policies.documents.len(), 2);
    let texts: Vec<String> = checked.findings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    for (text, part) in
        texts.iter().zip(["never reached, all before it", "allow is not", "runtime.path", "runtime.launcher"])
    {
        assert!(text.contains(part), "{text}");
    }
    write("3.yaml", "nonsense");
    let checked = check(&config);
    assert!(!checked.is_usable() && checked.policies.documents.is_empty());
    assert!(matches!(checked.findings[0], Finding::Policy(_)));
}

#[test]
fn the_shipped_examples_are_valid() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/config");
    let path = shipped.join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let config = Config::parse(&path, &text).unwrap();
    let defaults = Config::defaults();
    assert_eq!(config, Config { file: Some(path), sinks: config.sinks.clone(), ..defaults });
    // the lines that are commented out are valid too
    let example: String = text
        .lines()
        .map(|line| {
            line.strip_prefix("# ").filter(|rest| rest.contains(" = ") || rest.starts_with("[[")).unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let config = Config::parse(Path::new("example"), &example).unwrap_or_else(|error| panic!("{}", error.diagnostic()));
    assert_eq!((config.sinks.len(), config.runtime_paths.len(), config.labels.len()), (2, 2, 2));
    assert!(config.launcher.is_some());
    let mut documents = Vec::new();
    for file in policy_files::list(&shipped.join("policy.d")).unwrap() {
        let text = std::fs::read_to_string(&file).unwrap();
        documents.extend(crate::model::policy::parse::parse_documents(&file.display().to_string(), &text).unwrap());
    }
    assert_eq!(
        documents.iter().map(|document| document.name.as_str()).collect::<Vec<_>>(),
        ["production", "everything-else"]
    );
}
