//! Proof of [`crate::oci::seccomp_merge`] on compiled filters: the profile before and after is compiled with libseccomp as
//! runtimes do it ([`seccomp_program`]), and run over sampled calls. The relation between the two answers is the module's promise.

use std::fs;
use std::io::Read;
use std::io::Seek;
use std::path::Path;

use libseccomp::ScmpArch;
use libseccomp::ScmpSyscall;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;
use serde_json::json;

use crate::oci::intercepted;
use crate::oci::seccomp_merge::Listener;
use crate::oci::seccomp_merge::Merge;
use crate::oci::seccomp_merge::Merged;
use crate::oci::seccomp_merge::merge;
use crate::oci::seccomp_profile::Action;
use crate::oci::seccomp_profile::Profile;
use crate::oci::seccomp_program;
use crate::oci::seccomp_program::Installer;

pub(super) const LISTENER: Listener<'_> = Listener { path: "/run/acctguard/listener.sock", metadata: "acctguard/1" };

/// linux/seccomp.h return values.
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;

/// BPF_MAXINSNS, linux/bpf_common.h.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// One struct sock_filter (linux/filter.h).
pub(super) struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

pub(super) struct Filter(pub(super) Vec<Instruction>);

/// A call as the kernel shows it to a filter (struct seccomp_data).
pub(super) struct Call {
    pub(super) number: i32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&self.number.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.architecture.to_ne_bytes());
        for (index, argument) in self.arguments.iter().enumerate() {
            bytes[16 + index * 8..24 + index * 8].copy_from_slice(&argument.to_ne_bytes());
        }
        bytes
    }
}

impl Filter {
    fn parse(bytes: &[u8]) -> Self {
        let instruction = |chunk: &[u8]| Instruction {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jump_true: chunk[2],
            jump_false: chunk[3],
            operand: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        };
        Self(bytes.chunks_exact(8).map(instruction).collect())
    }

    /// Classic BPF as seccomp has it: 32-bit loads, and, jumps, return.
    pub(super) fn run(&self, call: &Call) -> u32 {
        let data = call.bytes();
        let mut accumulator = 0_u32;
        let mut position = 0_usize;
        loop {
            let instruction = &self.0[position];
            let operand = instruction.operand;
            position += 1;
            let jump = match instruction.code {
                0x20 => {
                    let offset = operand as usize;
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().expect("four bytes"));
                    continue;
                }
                0x54 => {
                    accumulator &= operand;
                    continue;
                }
                0x05 => {
                    position += operand as usize;
                    continue;
                }
                0x06 => return operand,
                0x15 => accumulator == operand,
                0x25 => accumulator > operand,
                0x35 => accumulator >= operand,
                0x45 => accumulator & operand != 0,
                code => panic!("instruction {code:#x} is not known to this test"),
            };
            position += usize::from(if jump { instruction.jump_true } else { instruction.jump_false });
        }
    }
}

/// Compiles a section as runtimes do.
pub(super) fn compile(section: &Value) -> Result<Filter, String> {
    let profile = Profile::parse(section).map_err(|error| error.to_string())?;
    compile_profile(&profile, Installer::Runtime)
}

/// Compiles a profile.
pub(super) fn compile_profile(profile: &Profile, installer: Installer) -> Result<Filter, String> {
    let mut file = tempfile::tempfile().map_err(|error| error.to_string())?;
    seccomp_program::write(profile, installer, &file).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
    Ok(Filter::parse(&bytes))
}

/// Audit architecture, libseccomp's name of it, and whether arguments are 32 bits wide (linux/audit.h).
pub(super) const ARCHITECTURES: [(u32, ScmpArch, bool); 3] =
    [(0xc000_003e, ScmpArch::X8664, false), (0x4000_0003, ScmpArch::X86, true), (0xc000_003e, ScmpArch::X32, false)];

/// Values near everything a profile compares with, and the flags of opens.
pub(super) fn interesting(profile: &Profile) -> [Vec<u64>; 6] {
    let common = [0, 1, 2, 3, 0o100, 0o101, 0o1000, 0o2101, 0o100_000, 0o2_000_000, 0o20_200_000, 0o20_200_002];
    let mut values: [Vec<u64>; 6] = std::array::from_fn(|_| common.to_vec());
    for rule in profile.entries.iter().flat_map(|entry| &entry.rules) {
        for condition in &rule.conditions {
            let list = &mut values[condition.index as usize];
            for value in [condition.value, condition.value_two, condition.value ^ condition.value_two] {
                list.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value | 1 << 32, value ^ 0o100]);
            }
        }
    }
    values
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) calls: u64,
    pub(super) intercepted: u64,
    pub(super) more_than_needed: u64,
    pub(super) left_out: u64,
}

/// A cheap sequence of numbers, so that a failing profile fails again.
pub(super) fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).expect("31 bits")
}

/// What a filter returns for an action (linux/seccomp.h).
fn returned(action: Action) -> u32 {
    let data = |value: u64| u32::try_from(value).expect("small");
    match action {
        Action::Allow => RET_ALLOW,
        Action::Log => RET_LOG,
        Action::Notify => RET_NOTIFY,
        Action::Errno(errno) => 0x0005_0000 | data(errno),
        Action::Trace(value) => 0x7ff0_0000 | data(value),
        Action::Trap => 0x0003_0000,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
    }
}

/// Whether the filter of a profile as it came answers, on x86-64 (for x32 libseccomp compares low halves), what one of the profile's rules says. libseccomp 2.5.4 compiles some
/// sets of orderings wrongly, even for a call by the rules of another; such a profile proves nothing.
pub(super) fn says(profile: &Profile, name: &str, arguments: &[u64; 6], answer: u32) -> bool {
    let rules = profile.effective(name);
    let holding = rules.iter().filter(|rule| rule.conditions.iter().all(|condition| condition.holds(arguments)));
    let mut answers: Vec<u32> = holding.map(|rule| returned(rule.action)).collect();
    if answers.is_empty() {
        answers.push(returned(profile.default));
    }
    answers.contains(&answer)
}

/// Checks the promise for one profile over sampled calls. False when libseccomp refuses the profile as it came, or
/// compiles it wrongly.
fn check(section: &Value, rounds: usize, tally: &mut Tally) -> Result<bool, String> {
    let Ok(before) = compile(section) else { return Ok(false) };
    let Merge::Merged(Merged { section: merged, gaps }) = merge(Some(section), LISTENER).map_err(|e| e.to_string())?
    else {
        return Err("no merge".to_owned());
    };
    let after = compile(&merged).map_err(|error| format!("the merged profile does not compile: {error}\n{merged}"))?;
    if after.0.len() > MAX_INSTRUCTIONS && before.0.len() <= MAX_INSTRUCTIONS / 2 {
        return Err(format!("{} instructions became {}\n{section}", before.0.len(), after.0.len()));
    }
    let profile = Profile::parse(section).map_err(|error| error.to_string())?;
    if !profile.default.allows() {
        same_names(section, &merged)?;
    }
    let values = interesting(&profile);
    let mut names: Vec<String> = intercepted::calls().map(|call| call.name.to_owned()).collect();
    names.extend(["read", "getpid", "socket", "clone", "personality", "ptrace", "reboot"].map(ToOwned::to_owned));
    let mut state = 42;
    for (audit, architecture, narrow) in ARCHITECTURES {
        for name in &names {
            let Ok(number) = ScmpSyscall::from_name_by_arch(name, architecture) else { continue };
            if number.is_undef() || number.as_raw_syscall() < 0 {
                continue;
            }
            for _ in 0..rounds {
                let mut arguments = std::array::from_fn(|index| values[index][next(&mut state) % values[index].len()]);
                if narrow {
                    arguments = arguments.map(|argument| argument & 0xffff_ffff);
                }
                let call = Call { number: number.as_raw_syscall(), architecture: audit, arguments };
                let (old, new) = (before.run(&call), after.run(&call));
                if architecture == ScmpArch::X8664 && !says(&profile, name, &arguments, old) {
                    return Ok(false);
                }
                judge(name, &arguments, old, new, &gaps, &profile, tally)
                    .map_err(|what| format!("{what}: {name} on {architecture:?} {arguments:x?}: {old:#x} became {new:#x}\n{section}\n{merged}"))?;
            }
        }
    }
    Ok(true)
}

pub(super) fn judge(
    name: &str,
    arguments: &[u64; 6],
    old: u32,
    new: u32,
    gaps: &[String],
    profile: &Profile,
    tally: &mut Tally,
) -> Result<(), &'static str> {
    tally.calls += 1;
    let call = intercepted::find(name);
    let allowed = old == RET_ALLOW || old == RET_LOG;
    let Some(call) = call.filter(|_| allowed) else {
        return if new == old { Ok(()) } else { Err("changed") };
    };
    if call.test.holds(arguments) {
        tally.intercepted += 1;
        let gap = gaps.iter().any(|gap| gap.starts_with(&format!("{name}:")));
        tally.left_out += u64::from(new != RET_NOTIFY);
        return if new == RET_NOTIFY || gap && new == old { Ok(()) } else { Err("not intercepted") };
    }
    let simple = profile.added(name).iter().all(|rule| rule.conditions.is_empty());
    tally.more_than_needed += u64::from(new == RET_NOTIFY);
    if new == old || new == RET_NOTIFY && !simple { Ok(()) } else { Err("intercepted or changed without need") }
}

/// runc gives ENOSYS to calls newer than the newest a refusing profile names, so the names must stay the same.
fn same_names(before: &Value, after: &Value) -> Result<(), String> {
    let names = |section: &Value| {
        let entries = section.get("syscalls").and_then(Value::as_array).into_iter().flatten();
        let names = entries.flat_map(|entry| entry["names"].as_array().into_iter().flatten());
        let mut names: Vec<_> = names.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    if names(before) == names(after) { Ok(()) } else { Err(format!("names differ:\n{before}\n{after}")) }
}

pub(super) fn captures() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures/captures");
    let mut found = Vec::new();
    for file in fs::read_dir(folder).expect("the captures are there") {
        let path = file.expect("lists").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let spec: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("valid JSON");
            let name = path.file_name().expect("has one").to_string_lossy().into_owned();
            found.push((name, spec.pointer("/linux/seccomp").cloned().unwrap_or_default()));
        }
    }
    assert!(found.len() > 20, "captures are missing");
    found
}

#[test]
fn every_engines_profile_keeps_its_promise() {
    let mut tally = Tally::default();
    let mut checked = 0;
    for (name, section) in captures() {
        if section.is_null() || section.get("listenerPath").is_some() {
            continue;
        }
        assert!(check(&section, 60, &mut tally).unwrap_or_else(|error| panic!("{name}: {error}")), "{name} compiles");
        checked += 1;
    }
    assert!(checked >= 15, "{checked} profiles");
    assert!(tally.intercepted > 1000);
    assert_eq!((tally.more_than_needed, tally.left_out), (0, 0));
}

#[test]
fn no_profile_becomes_one_that_only_intercepts() {
    let Ok(Merge::Merged(merged)) = merge(Some(&Value::Null), LISTENER) else { panic!("merges") };
    let filter = compile(&merged.section).expect("compiles");
    let nothing = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": intercepted::host_architectures()});
    let without = compile(&nothing).expect("compiles");
    let mut state = 1;
    let profile = Profile::parse(&nothing).expect("parses");
    let values = interesting(&profile);
    for (audit, _, narrow) in ARCHITECTURES {
        for number in (0..470).chain(0x4000_0000..0x4000_0000 + 550) {
            for _ in 0..30 {
                let arguments = std::array::from_fn(|index| values[index][next(&mut state) % values[index].len()]);
                let call = Call { number, architecture: audit, arguments };
                let x32 = number >= 0x4000_0000;
                if narrow && x32 {
                    continue;
                }
                let architecture = if narrow {
                    ScmpArch::X86
                } else if x32 {
                    ScmpArch::X32
                } else {
                    ScmpArch::X8664
                };
                let name = ScmpSyscall::from_raw_syscall(number).get_name_by_arch(architecture).unwrap_or_default();
                let wanted = intercepted::find(&name).is_some_and(|found| found.test.holds(&arguments));
                let expected = if wanted { RET_NOTIFY } else { without.run(&call) };
                assert_eq!(filter.run(&call), expected, "{name} ({number:#x}) on {architecture:?} {arguments:x?}");
            }
        }
    }
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let pool = prop::sample::select(vec![
        "open",
        "openat",
        "openat2",
        "creat",
        "chmod",
        "rename",
        "mount",
        "execve",
        "open_by_handle_at",
        "linkat",
        "io_uring_setup",
        "seccomp",
        "read",
        "socket",
        "clone",
        "no_such_call",
    ]);
    prop::collection::vec(pool.prop_map(ToOwned::to_owned), 1..4)
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..4,
        4 => prop::sample::select(vec![0o100_u64, 0o101, 0o1000, 0o1101, 0o20_200_000, 0o7777, 0x7e02_0000, 40]),
        1 => Just(0xffff_ffff),
        1 => prop::sample::select(vec![1_u64 << 32, u64::MAX, 0xffff_ffff_ffff_ff9c]),
    ]
}

fn arguments() -> impl Strategy<Value = Vec<Value>> {
    let operator = prop::sample::select(vec![
        "SCMP_CMP_EQ",
        "SCMP_CMP_EQ",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_GT",
        "SCMP_CMP_GE",
    ]);
    let one = (0_u32..4, operator, value(), value()).prop_map(|(index, operator, value, two)| match operator {
        "SCMP_CMP_MASKED_EQ" => json!({"index": index, "value": value, "valueTwo": two & value, "op": operator}),
        _ => json!({"index": index, "value": value, "op": operator}),
    });
    prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec(one, 1..4)]
}

fn rule() -> impl Strategy<Value = Value> {
    let action = prop::sample::select(vec![
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_LOG",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
    ]);
    let errno = prop::option::of(prop::sample::select(vec![1_u16, 13, 38]));
    (names(), action, errno, arguments()).prop_map(|(names, action, errno, arguments)| {
        let mut rule = json!({"names": names, "action": action});
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        if !arguments.is_empty() {
            rule["args"] = Value::Array(arguments);
        }
        rule
    })
}

pub(super) fn profile() -> impl Strategy<Value = Value> {
    let default = prop::sample::select(vec![
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_LOG",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
    ]);
    let architectures = prop::sample::select(vec![
        json!(null),
        json!(["SCMP_ARCH_X86_64"]),
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
    ]);
    let errno = prop::option::of(prop::sample::select(vec![1_u16, 38]));
    (default, architectures, errno, prop::collection::vec(rule(), 0..6)).prop_map(
        |(default, architectures, errno, rules)| {
            let mut profile = json!({"defaultAction": default, "syscalls": rules});
            if !architectures.is_null() {
                profile["architectures"] = architectures;
            }
            if let Some(errno) = errno {
                profile["defaultErrnoRet"] = json!(errno);
            }
            profile
        },
    )
}

/// Always the same profiles, so that a change is judged by itself; `ACCTGUARD_PROOF_CASES=N` looks at N others. Profiles that
/// libseccomp itself refuses or compiles wrongly prove nothing; more than a few of them (23 beside the 2,000) are a failure.
/// About one random profile in 40,000 keeps libseccomp 2.5.4 busy for ever before any merge: run those under timeout(1).
fn config() -> ProptestConfig {
    let cases = std::env::var("ACCTGUARD_PROOF_CASES").ok().and_then(|text| text.parse().ok());
    let count = cases.unwrap_or(2000);
    ProptestConfig {
        cases: count,
        max_shrink_iters: 400,
        max_global_rejects: count / 40,
        failure_persistence: None,
        rng_seed: if cases.is_none() { RngSeed::Fixed(1239) } else { RngSeed::Random },
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn random_profiles_keep_their_promise(section in profile()) {
        match check(&section, 12, &mut Tally::default()) {
            Err(error) => return Err(TestCaseError::fail(error)),
            Ok(false) => return Err(TestCaseError::reject("libseccomp cannot compile it")),
            Ok(true) => {}
        }
    }
}
