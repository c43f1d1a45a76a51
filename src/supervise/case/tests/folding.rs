use super::*;

#[test]
fn beyond_a_rate_events_are_folded_into_numbers_and_none_is_lost_nor_any_change() {
    let attempts = 20_000_u32;
    let mut story = Story::begin();
    for pid in 100..100 + attempts {
        // each of an act of its own: nothing to fold but by kind
        story.after(1).sees(&process(pid, &[], &["flood"]), Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    }
    let most = gate::BURST + gate::PER_SECOND * (attempts / 1000 + 1) + 1;
    let at_once = u32::try_from(story.attempts.len()).expect("a number");
    assert!(at_once <= most, "{at_once} events, at most {most}");
    // another kind is told at once all the same
    let before = story.attempts.len();
    story.sees(&process(7, &[], &["rename"]), Effect::Replaces, Some("/etc/shadow"), Outcome::Allowed);
    assert_eq!(story.attempts.len(), before + 1);
    story.world.get().files.insert("/etc/passwd".to_owned(), with(PASSWD, "mallory:x:0:0::/:/bin/sh"));
    let rest = story.case.finish(at(story.now_ms + 5000));
    let folded: u64 = rest.iter().filter_map(|event| event.suppressed).sum();
    assert_eq!(u64::from(at_once) + folded, u64::from(attempts), "none is lost");
    let findings = rest.iter().filter(|event| event.kind == Kind::AccountFinding);
    assert_eq!(findings.filter(|event| event.changes.is_some()).count(), 1, "a change is told whatever the rate is");
    assert!(story.case.state().acts.len() <= MAX_ACTS);
}

#[test]
fn what_others_do_to_a_containers_databases_folds_none_of_its_own() {
    let mut gate = Gate::new(at(0));
    let sighting = Sighting {
        seen: crate::supervise::observe::unresolved("openat"),
        acting: Arc::new(process(7, &[], &["x"])),
        session: None,
        outcome: Outcome::Blocked,
        policy: Applied::built_in().reference("mode"),
        at: at(0),
    };
    let admitted = (0..1000).filter(|_| gate.admits(&sighting, Witness::Notify, at(0))).count();
    assert_eq!(admitted, gate::BURST as usize + 1);
    assert_eq!(gate.take(at(1), false).len(), 0, "it is told later");
    let [folded] = &gate.take(at(60_000), false)[..] else { panic!("one kind") };
    assert_eq!(folded.count, 1000 - u64::from(gate::BURST) - 1);
    let mut story = Story::begin();
    for pid in 0..10_000 {
        let mut sighting = Sighting { acting: Arc::new(process(pid, &[], &["y"])), ..sighting.clone() };
        sighting.at = at(story.now_ms);
        sighting.seen.neighbour = Some(event_container().id);
        let _ = story.case.note_attempt(sighting);
    }
    assert!(story.case.state().acts.len() <= MAX_NEIGHBOURS_ACTS);
    story.sees(&process(7, &[], &["own"]), Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    story.sees(&process(8, &[], &["own"]), Effect::Writes, Some("/etc/passwd"), Outcome::Allowed);
    assert_eq!(story.attempts.len(), 2);
}
