//! Hand-written histories. The name of a bad one begins with the invariant it breaks, or with `record`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use history::{Demands, History, Invariant, Judgement, judge};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn judged(file: &Path, demands: Demands) -> (History, Judgement) {
    let history = History::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
    let judgement = judge(&history, demands);
    (history, judgement)
}

#[test]
fn each_bad_history_is_convicted_by_the_invariant_it_breaks_alone() {
    let mut convicted: BTreeMap<String, usize> = BTreeMap::new();
    for file in files("bad") {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let (history, judgement) = judged(&file, Demands::default());
        let broken: Vec<String> = judgement.broken().map(|invariant| invariant.to_string()).collect();
        let (meant, _) = name.split_once('-').unwrap();
        let report = judgement.report(&history);
        assert!(!judgement.acquits(), "{name} was acquitted");
        if meant == "record" {
            assert!(!judgement.failings.is_empty(), "{name}: {report}");
        } else {
            assert_eq!(broken, [meant], "{name}: {report}");
            assert_eq!(judgement.failings, Vec::<String>::new(), "{name}");
        }
        *convicted.entry(meant.to_owned()).or_default() += 1;
    }
    for invariant in Invariant::ALL {
        let count = convicted.get(&invariant.to_string()).copied().unwrap_or(0);
        assert!(count >= 2, "{invariant} has {count} bad histories");
    }
    assert!(convicted.values().sum::<usize>() >= 40, "{convicted:?}");
}

#[test]
fn good_histories_are_acquitted() {
    for file in files("good") {
        let (history, judgement) = judged(&file, Demands::default());
        assert!(judgement.acquits(), "{}: {}", file.display(), judgement.report(&history));
    }
}

#[test]
fn witnesses_are_no_longer_than_they_need_to_be() {
    for file in files("bad") {
        let (history, judgement) = judged(&file, Demands::default());
        for (invariant, findings) in &judgement.findings {
            if let Some(shortest) = findings.shortest() {
                let most = if *invariant == Invariant::I11 { 8 } else { 3 };
                let report = judgement.report(&history);
                assert!((1..=most).contains(&shortest.lines.len()), "{}: {report}", file.display());
            }
        }
    }
}

#[test]
fn a_run_in_which_too_little_happened_is_no_pass() {
    let file = files("good").remove(0);
    let lacking = [
        Demands { operations: 2000, ..Demands::default() },
        Demands { faults: 1, ..Demands::default() },
        Demands { refused: 1, ..Demands::default() },
    ];
    for demands in lacking {
        let (_, judgement) = judged(&file, demands);
        assert!(!judgement.acquits() && judgement.failings.len() == 1, "{demands:?}");
    }
}
