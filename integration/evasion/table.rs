//! The table: a row for each technique, a column for each runtime, question and way in; then the misses, one by one.

use std::collections::BTreeMap;

use crate::evasion::judgement::Question;
use crate::evasion::technique::Technique;
use crate::evasion::trial::Entry;
use crate::lanes::{LANES, Results};

const NAME_WIDTH: usize = 30;
const GROUND_WIDTH: usize = 8;
const WIDTH: usize = 10;

/// Prints it. True when there is no miss.
pub fn print(techniques: &[Technique], results: &Results) -> bool {
    println!(
        "found: in audit, or where no call of the container makes the change; by n notify, f fanotify, l landlock, c content"
    );
    println!("{}", heading(|lane, _| LANES[lane].question.name()));
    println!("{}", heading(|lane, _| LANES[lane].runtime.name()));
    println!("{}", heading(|_, way| Entry::ALL[way].name()));
    for (number, technique) in techniques.iter().enumerate() {
        println!("{}", row(number, technique, results));
    }
    for miss in misses(techniques, results) {
        println!("MISS {miss}");
    }
    let missed = results.values().filter(|judgement| !judgement.right).count();
    let count = |question: Question, right: bool| {
        let of_question = results
            .iter()
            .filter(|((_, lane, _), judgement)| LANES[*lane].question == question && judgement.right == right);
        of_question.count()
    };
    println!(
        "{} techniques; controls {} of {} change; audit {} of {} found; enforce {} of {} blocked; {} misses",
        techniques.len(),
        count(Question::Control, true),
        count(Question::Control, true) + count(Question::Control, false),
        count(Question::Audit, true),
        count(Question::Audit, true) + count(Question::Audit, false),
        count(Question::Enforce, true),
        count(Question::Enforce, true) + count(Question::Enforce, false),
        missed
    );
    missed == 0
}

/// One line for each technique, question and word: where that was so, and what there is to know of the first of them.
fn misses(techniques: &[Technique], results: &Results) -> Vec<String> {
    let mut groups: BTreeMap<(usize, &str, &str), (Vec<String>, &str)> = BTreeMap::new();
    for ((number, lane, way), judgement) in results.iter().filter(|(_, judgement)| !judgement.right) {
        let lane = LANES[*lane];
        let key = (*number, lane.question.name(), judgement.word.as_str());
        let (places, _) = groups.entry(key).or_insert_with(|| (Vec::new(), &judgement.detail));
        places.push(format!("{} {}", lane.runtime.name(), Entry::ALL[*way].name()));
    }
    let lines = groups.into_iter().map(|((number, question, word), (places, detail))| {
        format!("{} in {question} ({}): {word}: {detail}", techniques[number].name, places.join(", "))
    });
    lines.collect()
}

fn heading(word: impl Fn(usize, usize) -> &'static str) -> String {
    let cells = (0..LANES.len()).flat_map(|lane| (0..Entry::ALL.len()).map(move |way| (lane, way)));
    let cells: String = cells.map(|(lane, way)| format!(" {:<WIDTH$}", word(lane, way))).collect();
    format!("{:<NAME_WIDTH$} {:<GROUND_WIDTH$}{cells}", "", "")
}

fn row(number: usize, technique: &Technique, results: &Results) -> String {
    let of_row = || results.range((number, 0, 0)..(number + 1, 0, 0));
    let mut grounds: Vec<&str> =
        of_row().map(|(_, judgement)| judgement.ground.as_str()).filter(|ground| !ground.is_empty()).collect();
    grounds.sort_unstable();
    grounds.dedup();
    let cells: String = of_row().map(|(_, judgement)| format!(" {:<WIDTH$}", judgement.word)).collect();
    format!("{:<NAME_WIDTH$} {:<GROUND_WIDTH$}{cells}", technique.name, grounds.join(","))
}
