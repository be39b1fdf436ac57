//! The prompts there are, and what becomes of them when files change.
//!
//! Pure: it is given the texts of files and says what is different. A file that cannot be used keeps the last version of
//! itself that could; two files that claim the same name are both hidden.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::directory::Found;
use crate::format::PromptFile;
use crate::template::Prompt;

/// The prompts of a directory.
#[derive(Debug, Default)]
pub(crate) struct Library {
    files: BTreeMap<String, Entry>,
    /// What [`Library::get`] knows.
    prompts: BTreeMap<String, Arc<Prompt>>,
    /// Names that several files claim.
    contested: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Entry {
    /// As it was last found, usable or not.
    found: Result<String, String>,
    /// The last version that could be used.
    prompt: Option<Arc<Prompt>>,
}

/// Something an operator should know, said once for each change that makes it true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// A file cannot be used.
    Broken {
        /// Without extension.
        file: String,
        why: String,
        /// Whether an earlier version goes on being served.
        is_kept: bool,
    },
    /// Several files claim a name; none of them has it.
    Contested { name: String, files: Vec<String> },
}

impl Library {
    /// Takes over the files as they are now. Files that are the same as before cost nothing.
    pub(crate) fn take_over(&mut self, found: Found) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        self.files.retain(|file, _| found.contains_key(file));
        for (file, text) in found {
            let earlier = match self.files.remove(&file) {
                Some(entry) if entry.found == text => {
                    self.files.insert(file, entry);
                    continue;
                }
                Some(entry) => entry.prompt,
                None => None,
            };
            let prompt = match read(&file, &text) {
                Ok(prompt) => Some(Arc::new(prompt)),
                Err(why) => {
                    let is_kept = earlier.is_some();
                    complaints.push(Complaint::Broken { file: file.clone(), why, is_kept });
                    earlier
                }
            };
            self.files.insert(file, Entry { found: text, prompt });
        }
        self.name(&mut complaints);
        complaints
    }

    fn name(&mut self, complaints: &mut Vec<Complaint>) {
        let mut claims: BTreeMap<&str, Vec<(&str, &Arc<Prompt>)>> = BTreeMap::new();
        for (file, entry) in &self.files {
            if let Some(prompt) = &entry.prompt {
                claims.entry(&prompt.file.name).or_default().push((file, prompt));
            }
        }
        let mut prompts = BTreeMap::new();
        let mut contested = BTreeMap::new();
        for (name, claimants) in claims {
            if let [(_, prompt)] = claimants.as_slice() {
                prompts.insert(name.to_owned(), Arc::clone(prompt));
                continue;
            }
            let files: Vec<String> = claimants.iter().map(|(file, _)| (*file).to_owned()).collect();
            if self.contested.get(name) != Some(&files) {
                complaints.push(Complaint::Contested { name: name.to_owned(), files: files.clone() });
            }
            contested.insert(name.to_owned(), files);
        }
        self.prompts = prompts;
        self.contested = contested;
    }

    /// A prompt by its name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Prompt>> {
        self.prompts.get(name).cloned()
    }

    /// Every prompt, in order of names.
    pub(crate) fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.prompts.values().map(Arc::as_ref)
    }
}

fn read(stem: &str, text: &Result<String, String>) -> Result<Prompt, String> {
    let text = text.as_ref().map_err(Clone::clone)?;
    let file = PromptFile::parse(stem, text).map_err(|error| error.to_string())?;
    Prompt::compile(file).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Found {
        files.iter().map(|(file, text)| ((*file).to_owned(), Ok((*text).to_owned()))).collect()
    }

    fn listed(library: &Library) -> Vec<String> {
        library.prompts().map(|p| format!("{}: {}", p.file.name, p.file.messages[0].body.trim())).collect()
    }

    fn broken(file: &str, is_kept: bool) -> impl Fn(&Complaint) -> bool {
        move |complaint| matches!(complaint, Complaint::Broken { file: f, is_kept: k, .. } if f == file && *k == is_kept)
    }

    #[test]
    fn files_come_change_and_go() {
        let mut library = Library::default();
        assert_eq!(library.take_over(found(&[("b", "+++\n+++\none"), ("a", "+++\n+++\ntwo")])), []);
        assert_eq!(listed(&library), ["a: two", "b: one"]);
        assert_eq!(library.take_over(found(&[("b", "+++\n+++\nthree")])), []);
        assert_eq!(listed(&library), ["b: three"]);
        assert!(library.get("a").is_none());
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_version_and_is_reported_once() {
        let mut library = Library::default();
        library.take_over(found(&[("a", "+++\n+++\ngood")]));
        for text in ["+++\n+++\n{{ bad", "+++\n", ""] {
            let complaints = library.take_over(found(&[("a", text)]));
            assert!(matches!(complaints.as_slice(), [one] if broken("a", true)(one)), "{complaints:?}");
            assert_eq!(library.take_over(found(&[("a", text)])), []);
            assert_eq!(listed(&library), ["a: good"]);
        }
        assert_eq!(library.take_over(found(&[("a", "+++\n+++\nbetter")])), []);
        assert_eq!(listed(&library), ["a: better"]);
    }

    #[test]
    fn a_file_that_was_never_good_is_not_listed() {
        let mut library = Library::default();
        let complaints = library.take_over(found(&[("a", "hello"), ("b", "+++\n+++\nfine")]));
        assert!(matches!(complaints.as_slice(), [one] if broken("a", false)(one)), "{complaints:?}");
        assert_eq!(listed(&library), ["b: fine"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_broken_too() {
        let mut library = Library::default();
        library.take_over(found(&[("a", "+++\n+++\ngood")]));
        let unreadable: Found = [("a".to_owned(), Err("no".to_owned()))].into();
        let complaints = library.take_over(unreadable.clone());
        assert!(matches!(complaints.as_slice(), [one] if broken("a", true)(one)), "{complaints:?}");
        assert_eq!(library.take_over(unreadable), []);
        assert_eq!(listed(&library), ["a: good"]);
    }

    #[test]
    fn a_name_that_two_files_claim_belongs_to_neither() {
        let mut library = Library::default();
        let twice =
            found(&[("a", "+++\nname='x'\n+++\n1"), ("b", "+++\nname='x'\n+++\n2"), ("c", "+++\n+++\n3")]);
        let expected = Complaint::Contested { name: "x".into(), files: vec!["a".into(), "b".into()] };
        assert_eq!(library.take_over(twice.clone()), [expected]);
        assert_eq!(listed(&library), ["c: 3"]);
        assert_eq!(library.take_over(twice), []);
        assert_eq!(library.take_over(found(&[("b", "+++\nname='x'\n+++\n2")])), []);
        assert_eq!(listed(&library), ["x: 2"]);
    }
}
