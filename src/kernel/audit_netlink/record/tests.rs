use proptest::prelude::*;

use super::*;

const STAMP: &str = "audit(1795533324.101:3): ";

fn parse_text(kind: u16, text: &str) -> Option<Body> {
    parse(kind, format!("{STAMP}{text}").as_bytes()).map(|record| record.body)
}

fn access_of(text: &str) -> Access {
    match parse_text(1423, text) {
        Some(Body::Access(access)) => access,
        other => panic!("{text}: {other:?}"),
    }
}

/// Lines of Linux 6.18, word for word.
#[test]
fn the_kernels_own_lines_are_understood() {
    let access = access_of(r#"domain=1edff400b blockers=fs.write_file path="/etc/passwd" dev="vda" ino=10018989"#);
    assert_eq!(access.domain, 0x1_edff_400b);
    assert_eq!(access.blockers, ["fs.write_file"]);
    assert_eq!((access.path.as_deref(), access.inode), (Some(&b"/etc/passwd"[..]), Some(10_018_989)));
    let topology = access_of(r#"domain=1edff400b blockers=fs.change_topology path="/" dev="vda" ino=2"#);
    assert_eq!(topology.blockers, ["fs.change_topology"]);
    let made = r#"domain=1edff400b status=allocated mode=enforcing pid=1131 uid=0 exe="/usr/bin/acctguard-launch" comm="acctguard-launc""#;
    let exe = Some(b"/usr/bin/acctguard-launch".to_vec());
    assert_eq!(parse_text(1424, made), Some(Body::DomainMade { domain: 0x1_edff_400b, pid: 1131, exe }));
    let gone = "domain=1edff400b status=deallocated denials=10";
    assert_eq!(parse_text(1424, gone), Some(Body::DomainGone { domain: 0x1_edff_400b }));
    let call = r#"arch=c000003e syscall=257 success=no exit=-13 a0=ffffff9c a1=558581050170 a2=441 a3=1b6 items=0 ppid=1061 pid=1131 auid=1000 uid=0 gid=0 euid=5 suid=0 fsuid=0 egid=6 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="bash" exe="/usr/bin/bash" key=(null)"#;
    let Some(Body::Syscall(call)) = parse_text(1300, call) else { panic!("no call") };
    assert_eq!((call.architecture, call.number, call.exit, call.pid, call.parent), (0xc000_003e, 257, -13, 1131, 1061));
    assert_eq!((call.effective_uid, call.effective_gid, call.login_uid), (5, 6, Some(1000)));
    assert_eq!(call.exe.as_deref(), Some(&b"/usr/bin/bash"[..]));
    let title = parse_text(1327, "proctitle=726D002F6574632F706173737764");
    assert_eq!(title, Some(Body::ProcessTitle(b"rm\0/etc/passwd".to_vec())));
    assert_eq!(parse_text(1327, r#"proctitle="bash""#), Some(Body::ProcessTitle(b"bash".to_vec())));
    let end = parse(1320, STAMP.as_bytes()).expect("end");
    assert_eq!((end.body, end.event), (Body::End, EventId { seconds: 1_795_533_324, milliseconds: 101, serial: 3 }));
}

#[test]
fn other_records_and_broken_ones_are_none() {
    assert_eq!(parse_text(1400, "domain=1 blockers=fs.write_file"), None, "another type");
    for broken in [
        "",
        "domain=xyz blockers=fs.write_file",
        "domain=1",
        "blockers=fs.write_file",
        "domain=11111111111111111 blockers=x",
    ] {
        assert_eq!(parse_text(1423, broken), None, "{broken}");
    }
    for broken in ["domain=1", "domain=1 status=other", "domain=1 status=allocated", "domain=1 status=allocated pid=-1"]
    {
        assert_eq!(parse_text(1424, broken), None, "{broken}");
    }
    assert_eq!(parse_text(1300, "arch=c000003e syscall=257 ppid=1"), None);
    for stamp in ["", "audit", "audit(1.1:1", "audit(1.1): ", "audit(a.1:1): ", "audit(1:1): ", "audit(-1.1:1): ", "x"]
    {
        let text = format!("{stamp} domain=1 blockers=fs.write_file");
        assert_eq!(parse(1423, text.as_bytes()), None, "{stamp}");
    }
}

/// A file name cannot make another field of itself: the kernel writes what has a quote, a space or a control character in it as digits.
#[test]
fn what_the_container_names_cannot_look_like_a_field() {
    // /etc/x" ino=1 domain=2
    let digits = "2F6574632F78222069 6E6F3D3120646F6D61696E3D32".replace(' ', "");
    let access = access_of(&format!("domain=9 blockers=fs.write_file path={digits} dev=\"vda\" ino=7"));
    assert_eq!(access.path.as_deref(), Some(&b"/etc/x\" ino=1 domain=2"[..]));
    assert_eq!((access.domain, access.inode), (9, Some(7)));
    for none in ["(null)", "?", "2F6", "2g", "", "<no_memory>"] {
        assert_eq!(access_of(&format!("domain=9 blockers=fs.write_file path={none} ino=7")).path, None, "{none}");
    }
    // the first of two fields of one name counts
    assert_eq!(access_of("domain=9 blockers=fs.write_file domain=8").domain, 9);
    let many = vec!["fs.write_file"; 1000].join(",");
    assert_eq!(access_of(&format!("domain=9 blockers={many}")).blockers.len(), MAX_BLOCKERS);
    let odd = access_of("domain=9 blockers=fs.write_file,\u{1b}[2J,FS.X");
    assert_eq!(odd.blockers, ["fs.write_file"]);
    let long = access_of(&format!("domain=9 blockers=fs.write_file path={} ino=7", "41".repeat(MAX_VALUE_BYTES + 1)));
    assert_eq!((long.path, long.inode), (None, Some(7)));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(kind in prop::sample::select(vec![1300_u16, 1320, 1327, 1423, 1424]),
                                      bytes in prop::collection::vec(any::<u8>(), 0..300), stamped in any::<bool>()) {
        let mut text = if stamped { STAMP.as_bytes().to_vec() } else { Vec::new() };
        text.extend_from_slice(&bytes);
        let _ = parse(kind, &text);
    }

    /// As `audit_log_untrustedstring` writes them.
    #[test]
    fn every_name_comes_back(name in prop::collection::vec(1_u8.., 1..200)) {
        let plain = name.iter().all(|byte| *byte != b'"' && (0x21..=0x7e).contains(byte));
        let written = if plain {
            format!("\"{}\"", String::from_utf8_lossy(&name))
        } else {
            name.iter().map(|byte| format!("{byte:02X}")).collect()
        };
        let access = access_of(&format!("domain=9 blockers=fs.write_file path={written} dev=\"vda\" ino=7"));
        prop_assert_eq!(access.path.as_deref(), Some(name.as_slice()));
        prop_assert_eq!(access.inode, Some(7));
    }

    #[test]
    fn mutilated_lines_are_understood_or_none(cut in 0_usize..200, at in 0_usize..200, byte in any::<u8>()) {
        let line = format!(r#"{STAMP}domain=1edff400b status=allocated mode=enforcing pid=1131 uid=0 exe="/a b" comm="c""#);
        let mut bytes = line.into_bytes();
        bytes.truncate(cut);
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        for kind in [1300, 1320, 1327, 1423, 1424] {
            let _ = parse(kind, &bytes);
        }
    }
}
