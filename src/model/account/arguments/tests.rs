use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn told(line: &str) -> Vec<String> {
    from_arguments(&words(line))
        .into_iter()
        .map(|change| {
            assert_eq!(change.evidence, "arguments");
            let mut text = format!("{} {}", change.change, change.name.unwrap());
            let parts = [
                change.member.map(|member| format!("member={member}")),
                change.uid.map(|uid| format!("uid={uid}")),
                change.gid.map(|gid| format!("gid={gid}")),
                change.home.map(|home| format!("home={home}")),
                change.shell.map(|shell| format!("shell={shell}")),
                (!change.flags.is_empty()).then(|| change.flags.join(",")),
            ];
            for part in parts.into_iter().flatten() {
                text.push(' ');
                text.push_str(&part);
            }
            text
        })
        .collect()
}

#[test]
fn arguments_name_the_account() {
    for (line, expected) in [
        ("useradd mallory", &["account_added mallory"][..]),
        ("/usr/sbin/useradd -m -u 0 -o -s /bin/sh mallory", &["account_added mallory uid=0 shell=/bin/sh uid_zero"]),
        ("useradd -mou0 mallory", &["account_added mallory uid=0 uid_zero"]),
        (
            "useradd --home=/x --shell /bin/sh -G sudo,wheel eve",
            &[
                "account_added eve home=/x shell=/bin/sh",
                "membership_added sudo member=eve",
                "membership_added wheel member=eve",
            ],
        ),
        ("useradd eve -p hash", &["account_added eve", "password_set eve"]),
        ("useradd --pass hash eve", &["account_added eve", "password_set eve"]),
        ("useradd -- -eve", &["account_added -eve"]),
        ("useradd -D", &[]),
        ("useradd", &[]),
        ("useradd -m", &[]),
        ("adduser --disabled-password --gecos x --uid 1234 --home /h bob", &["account_added bob uid=1234 home=/h"]),
        ("perl /usr/sbin/adduser --system bob", &["account_added bob"]),
        ("/usr/bin/perl -T /usr/sbin/adduser bob sudo", &["membership_added sudo member=bob"]),
        ("busybox adduser -D -h /tmp -s /bin/ash -u 7 bob", &["account_added bob uid=7 home=/tmp shell=/bin/ash"]),
        ("adduser -S -D -H -G nogroup -g comment svc", &["account_added svc", "membership_added nogroup member=svc"]),
        ("adduser --group --system svc", &["account_added svc"]),
        ("adduser --group staff", &["group_added staff"]),
        ("usermod -aG sudo eve", &["membership_added sudo member=eve"]),
        ("usermod -u 0 -o eve", &["account_modified eve uid=0 uid_zero"]),
        ("usermod -L eve", &["password_locked eve"]),
        ("usermod -l root2 eve", &["account_modified eve", "account_added root2"]),
        ("usermod eve", &["account_modified eve"]),
        ("userdel -r eve", &["account_removed eve"]),
        ("deluser eve sudo", &["membership_removed sudo member=eve"]),
        ("deluser --remove-home eve", &["account_removed eve"]),
        ("deluser --group staff", &["group_removed staff"]),
        ("groupadd -g 0 -o toor", &["group_added toor gid=0 gid_zero"]),
        ("addgroup -g 99 -S web", &["group_added web gid=99"]),
        ("addgroup eve sudo", &["membership_added sudo member=eve"]),
        ("groupdel web", &["group_removed web"]),
        ("groupmod -n new old", &["group_modified old", "group_added new"]),
        ("gpasswd -a eve sudo", &["membership_added sudo member=eve"]),
        ("gpasswd -d eve sudo", &["membership_removed sudo member=eve"]),
        ("passwd root", &["password_set root"]),
        ("passwd -d root", &["password_removed root no_password"]),
        ("passwd -l root", &["password_locked root"]),
        ("passwd -S root", &[]),
        ("passwd", &[]),
        ("chpasswd", &[]),
        ("chsh -s /bin/sh www-data", &["account_modified www-data shell=/bin/sh"]),
        ("chage -l root", &[]),
        ("cat /etc/passwd", &[]),
        ("sh -c useradd", &[]),
        ("", &[]),
    ] {
        assert_eq!(told(line), expected, "{line}");
    }
}

#[test]
fn no_secret_is_told() {
    let changes = from_arguments(&words("useradd -p $6$salt$hash -c x eve"));
    assert!(!format!("{changes:?}").contains("hash"));
    assert_eq!(changes[0].after.as_ref().unwrap().password.as_deref(), Some(REDACTED));
}

#[test]
fn account_tools_are_known_by_base_name() {
    for tool in ["useradd", "adduser", "chpasswd", "vipw", "systemd-sysusers", "gpasswd", "usermod"] {
        assert!(is_account_tool(tool.as_bytes()), "{tool}");
    }
    for other in ["", "cat", "useradd2", "su", "/usr/sbin/useradd"] {
        assert!(!is_account_tool(other.as_bytes()), "{other}");
    }
}

proptest::proptest! {
    #[test]
    fn any_command_line_is_read(argv in proptest::collection::vec("(useradd|adduser|usermod|passwd|-[a-zA-Z=]{0,4}|--[a-z=]{0,8}|\\PC{0,6})", 0..8)) {
        let _ = from_arguments(&argv);
    }
}
