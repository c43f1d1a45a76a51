//! What is known to go wrong with youki, each tried, and what is its own: compared with youki alone.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use acctguard::model::event::{Event, Kind};
use acctguard::model::policy::Ground;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::bundle::{Bundle, Capabilities, Spec};
use crate::harness::command::{Done, finish};
use crate::harness::events::of;
use crate::place::{Place, said};
use crate::report::{Column, Report};

/// What a process must have as without acctguard; `Seccomp` is not of it: youki gives exec sessions none.
const LOOK: &str = "grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups|SigBlk|SigIgn)' /proc/self/status; ulimit -n; env | sort; pwd; ls /proc/self/fd";
/// How long a container waits before it ends, so that youki's `run` does not miss it.
const PAUSE: &str = "sleep 1; ";

/// All of them, in both modes.
pub fn traps(place: &Place, report: &mut Report) {
    for mode in ["audit", "enforce"] {
        place.set_mode(mode);
        let youki = Youki { place, enforced: mode == "enforce" };
        for (what, outcome) in [
            ("an exec session has what it has under youki alone", youki.execs_are_alike()),
            ("it has a filter, and under youki alone none", youki.execs_are_filtered()),
            ("an engine's profile goes on to hold", youki.engine_profile()),
            ("a profile beside noNewPrivileges: false starts, under youki alone not", youki.late_filter()),
            ("an exec that cannot be followed is refused in enforce and told in audit", youki.not_followed()),
            ("an exec while the daemon is away likewise", youki.without_daemon()),
            ("another release of youki is refused in enforce and told in audit", youki.other_release()),
        ] {
            report.check(Column::Traps, &format!("{what} ({mode})"), outcome);
        }
    }
}

struct Youki<'a> {
    place: &'a Place,
    enforced: bool,
}

impl Youki<'_> {
    fn launch(&self, spec: &Spec, command: impl Fn() -> Command) -> Result<Bundle, String> {
        let bundle = self.place.node.bundle(spec);
        let created = finish(command().args(["create", "--bundle"]).arg(&bundle.folder).arg(&bundle.id));
        let started = if created.code() == 0 { finish(command().arg("start").arg(&bundle.id)) } else { created };
        if started.code() == 0 { Ok(bundle) } else { Err(said(&started)) }
    }

    fn shim(&self) -> Command {
        self.place.node.shim()
    }

    fn bare(&self) -> Command {
        self.place.node.bare()
    }

    fn execs_are_alike(&self) -> Result<(), String> {
        let process = self.place.path("process.json");
        let process = process.to_str().expect("text");
        let by_words: [&[&str]; 4] = [
            &["ID", "/bin/sh", "-c", LOOK],
            &["-e", "HOME=/other", "-e", "NEW=1", "--cwd", "/srv", "ID", "sh", "-c", LOOK],
            &["--user", "1000:1001", "ID", "/bin/sh", "-c", LOOK],
            &["--no-new-privs", "ID", "/bin/sh", "-c", LOOK],
        ];
        for (no_new_privileges, uid) in [(false, 0), (true, 0), (false, 1000)] {
            let mut spec = Spec::idle();
            (spec.no_new_privileges, spec.uid) = (no_new_privileges, uid);
            let plain = self.launch(&spec, || self.bare())?;
            let guarded = self.launch(&spec, || self.shim())?;
            for words in by_words {
                self.exec_is_alike(&plain, &guarded, words)?;
            }
            for capabilities in
                [json!(null), json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]})]
            {
                let mut of_file = json!({"args": ["/bin/sh", "-c", LOOK], "cwd": "/srv", "user": {"uid": uid, "gid": 7},
                    "env": ["PATH=/usr/bin:/bin"], "noNewPrivileges": no_new_privileges});
                if !capabilities.is_null() {
                    of_file["capabilities"] = capabilities;
                }
                fs::write(process, of_file.to_string()).map_err(|error| error.to_string())?;
                self.exec_is_alike(&plain, &guarded, &["--process", process, "ID"])?;
            }
            for bundle in [&plain, &guarded] {
                self.place.node.delete(bundle);
            }
        }
        Ok(())
    }

    fn exec_is_alike(&self, plain: &Bundle, guarded: &Bundle, words: &[&str]) -> Result<(), String> {
        let run = |mut command: Command, bundle: &Bundle| {
            command.arg("exec").args(words.iter().map(|&word| if word == "ID" { bundle.id.as_str() } else { word }));
            finish(&mut command)
        };
        let (alone, with) = (run(self.bare(), plain), run(self.shim(), guarded));
        let same = alone.code() == with.code() && alone.stdout == with.stdout && !alone.stdout.is_empty();
        if same { Ok(()) } else { Err(format!("{words:?}: alone it {}; now it {}", said(&alone), said(&with))) }
    }

    fn execs_are_filtered(&self) -> Result<(), String> {
        let mut spec = Spec::idle();
        (spec.engine_seccomp, spec.no_new_privileges) = (true, true);
        for (command, wanted) in [(Self::bare as fn(&Self) -> Command, "Seccomp:\t0"), (Self::shim, "Seccomp:\t2")] {
            let bundle = self.launch(&spec, || command(self))?;
            let done = finish(command(self).args(["exec", &bundle.id, "/bin/grep", "^Seccomp:", "/proc/self/status"]));
            self.place.node.delete(&bundle);
            if !done.stdout.contains(wanted) {
                return Err(format!("not {wanted}; {}", said(&done)));
            }
        }
        Ok(())
    }

    /// With a profile that refuses by default, what is let go must be named, and what is handed over must not be among it.
    fn engine_profile(&self) -> Result<(), String> {
        let script = format!(
            "{PAUSE}mkdir /srv/own && echo x > /etc/other && mv /etc/other /etc/another && echo well; echo 'eve:x:0:0::/:/bin/sh' >> /etc/passwd; swapon /none"
        );
        let mut spec = Spec::shell(&script);
        (spec.engine_seccomp, spec.no_new_privileges) = (true, true);
        let bundle = self.place.node.bundle(&spec);
        let done = finish(self.shim().args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id));
        let there = bundle.text("/etc/passwd").contains("eve:");
        if !done.stdout.contains("well") || there == self.enforced {
            return Err(format!("the account is there: {there}; {}", said(&done)));
        }
        crate::patiently(|| {
            let events = self.place.node.events();
            let found = of(&events, Kind::AccountFinding, &bundle.id);
            // a finding by seccomp: the others come without an operation
            let heard = found.iter().any(|event| event.actor.as_ref().is_some_and(|actor| actor.pid != 0));
            if heard { Ok(()) } else { Err(format!("no finding with an actor: {found:?}")) }
        })
    }

    fn late_filter(&self) -> Result<(), String> {
        let mut spec = Spec::shell(&format!("{PAUSE}echo it ran"));
        spec.engine_seccomp = true;
        let run = |mut command: Command| {
            let bundle = self.place.node.bundle(&spec);
            finish(command.args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id))
        };
        let (alone, with) = (run(self.bare()), run(self.shim()));
        let right = alone.stderr.contains("LoadContext") && alone.code() != 0 && with.stdout.contains("it ran");
        if right { Ok(()) } else { Err(format!("alone it {}; now it {}", said(&alone), said(&with))) }
    }

    fn not_followed(&self) -> Result<(), String> {
        let bundle = self.launch(&Spec::idle(), || self.shim())?;
        let done =
            finish(self.shim().args(["exec", "--cap", "CAP_KILL", &bundle.id, "/bin/busybox", "echo", "it ran"]));
        let outcome = self.refused_or_told(&bundle, &done, "what --cap changes is not followed");
        self.place.node.delete(&bundle);
        outcome
    }

    fn without_daemon(&self) -> Result<(), String> {
        let bundle = self.launch(&Spec::idle(), || self.shim())?;
        self.place.node.stop_daemon(Signal::SIGTERM);
        let done = finish(self.shim().args(["exec", &bundle.id, "/bin/busybox", "echo", "it ran"]));
        self.place.node.start_daemon();
        let outcome = self.refused_or_told(&bundle, &done, "the daemon cannot be reached");
        self.place.node.delete(&bundle);
        outcome
    }

    /// Refused in enforce, run in audit, on record with `why` in both.
    fn refused_or_told(&self, bundle: &Bundle, done: &Done, why: &str) -> Result<(), String> {
        let ran = done.code() == 0 && done.stdout.contains("it ran");
        let refused = done.code() == 255 && done.stdout.is_empty() && done.stderr.contains(why);
        if self.enforced != refused || self.enforced == ran {
            return Err(said(done));
        }
        let what = if self.enforced { "exec refused" } else { "exec session not intercepted" };
        crate::patiently(|| {
            let events = self.place.node.events();
            let told = of(&events, Kind::ProtectionDegraded, &bundle.id);
            let right = |event: &&&Event| {
                event.protection.as_ref().is_some_and(|change| change.what == what && change.reason.contains(why))
            };
            let session = of(&events, Kind::ContainerExec, &bundle.id);
            let session = session.first().and_then(|event| event.session.as_ref());
            let unseen =
                session.is_none_or(|session| session.ground == Some(Ground::None) && !session.reasons.is_empty());
            if told.iter().any(|event| right(&event)) && unseen {
                Ok(())
            } else {
                Err(format!("told is {told:?}, {session:?}"))
            }
        })
    }

    /// What a release that nobody knows yet makes of a seccomp section cannot be said.
    fn other_release(&self) -> Result<(), String> {
        let (wrapper, config) = self.of_other_release()?;
        let script = format!("{PAUSE}echo it ran");
        let bundle = self.place.node.bundle(&Spec { capabilities: Capabilities::Engine, ..Spec::shell(&script) });
        let mut command = self.shim();
        command.env("ACCTGUARD_CONFIG", &config).args(["run", "--bundle"]).arg(&bundle.folder).arg(&bundle.id);
        let done = finish(&mut command);
        let ran = done.code() == 0 && done.stdout.contains("it ran");
        let refused = done.code() != 0 && done.stderr.contains("how youki 0.8.0 reads a seccomp profile is not known");
        if self.enforced != refused || self.enforced == ran {
            return Err(format!("{} {}", wrapper.display(), said(&done)));
        }
        let events = self.place.node.events();
        let created = of(&events, Kind::ContainerCreated, &bundle.id);
        let record = created.first().and_then(|event| event.creation.as_ref());
        let told = record.map(|creation| (creation.protection.intercepted, creation.protection.reasons.join("; ")));
        match told {
            Some((false, reasons)) if reasons.contains("youki 0.8.0") => Ok(()),
            None if self.enforced => Ok(()),
            other => Err(format!("the record says {other:?}")),
        }
    }

    /// A youki that calls itself another release, and a configuration that names it.
    fn of_other_release(&self) -> Result<(PathBuf, PathBuf), String> {
        use std::os::unix::fs::PermissionsExt as _;

        let real = self.place.node.runtime.path();
        let (wrapper, config) = (self.place.node.scratch.folder("other").join("newer"), self.place.path("other.toml"));
        let text = format!(
            "#!/bin/sh\n[ \"$1\" != --version ] || {{ echo youki version: 0.8.0; exit; }}\nexec {} \"$@\"\n",
            real.display()
        );
        let own = fs::read_to_string(self.place.node.config()).map_err(|error| error.to_string())?;
        fs::write(&wrapper, text).map_err(|error| error.to_string())?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        let other = own.replace(
            &Value::from(real.display().to_string()).to_string(),
            &Value::from(wrapper.display().to_string()).to_string(),
        );
        if other == own {
            return Err("the configuration does not name the runtime".to_owned());
        }
        fs::write(&config, other).map_err(|error| error.to_string())?;
        Ok((wrapper, config))
    }
}
