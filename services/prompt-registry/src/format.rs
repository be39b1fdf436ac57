//! The form of a prompt file: TOML front matter between two `+++` lines, then the messages.
//!
//! ```text
//! +++
//! name = "review"                  # default: the file's name without its extension
//! title = "Code review"
//! description = "Asks for a review of a piece of code."
//!
//! [[arguments]]
//! name = "code"
//! description = "The code to review."
//! required = true
//!
//! [[arguments]]
//! name = "style"
//! values = ["short", "thorough"]   # offered for completion; other values are accepted
//! default = "short"                # without it, an argument that is not given is an empty text
//! +++
//! Please review this code{% if style == "thorough" %} line by line{% endif %}:
//!
//! {{ code }}
//!
//! +++ assistant
//! I will look for defects first.
//!
//! +++ user { resource = "guide://style", mime_type = "text/markdown" }
//! Our rules, as an embedded resource.
//! ```
//!
//! A line `+++ user` or `+++ assistant` begins a message; text before the first such line is a user's message. Behind the
//! role, `{ resource = "<uri>" }` makes the message an embedded resource with the text as its content. A line of three plus
//! signs and anything that is not a single word (a line of a diff, say) is text like any other. Each message is a template of
//! its own, see [`crate::template`]; one that is empty once filled in is left out.

use std::collections::BTreeSet;

use serde::Deserialize;

/// Longest name of a prompt or an argument.
const MAX_NAME: usize = 64;
/// Most arguments of one prompt.
const MAX_ARGUMENTS: usize = 64;
/// Most messages of one prompt.
const MAX_MESSAGES: usize = 100;
/// Most values offered for one argument.
const MAX_VALUES: usize = 10_000;

const FENCE: &str = "+++";

/// A prompt file, read and checked; templates are not compiled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PromptFile {
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) messages: Vec<Message>,
}

/// An argument of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) required: bool,
    pub(crate) default: Option<String>,
    pub(crate) values: Vec<String>,
}

/// A message, its text still a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) role: Role,
    /// Set if the text is the content of a resource.
    pub(crate) resource: Option<Resource>,
    pub(crate) body: String,
    /// Line of the file on which the text begins.
    pub(crate) line: usize,
}

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    User,
    Assistant,
}

/// Makes a message an embedded resource.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resource {
    #[serde(rename = "resource")]
    pub(crate) uri: String,
    pub(crate) mime_type: Option<String>,
}

/// Why a file is not a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("does not begin with front matter: a line `+++`, TOML, and another line `+++`")]
    NoFrontMatter,
    #[error("the front matter does not end: no second line `+++`")]
    OpenFrontMatter,
    #[error("front matter: {0}")]
    FrontMatter(String),
    #[error("`{0}` cannot be a prompt's name: use 1 to {MAX_NAME} letters, digits, `_`, `-` or `.`")]
    Name(String),
    #[error("`{0}` cannot be an argument's name: use 1 to {MAX_NAME} letters, digits or `_`, no digit first")]
    ArgumentName(String),
    #[error("argument `{0}` stands twice")]
    RepeatedArgument(String),
    #[error("argument `{0}` is required, so its default is of no use")]
    UselessDefault(String),
    #[error("too many arguments, messages or values")]
    TooMany,
    #[error(
        "line {line}: `{word}` is no role: use `user` or `assistant`; to mean the text, write {{{{ \"+++ {word}\" }}}}"
    )]
    Role {
        /// Where.
        line: usize,
        /// What stands there.
        word: String,
    },
    #[error("line {line}: behind the role: {why}")]
    Attributes {
        /// Where.
        line: usize,
        /// What is wrong.
        why: String,
    },
    #[error("there is no message")]
    NoMessage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FrontMatter {
    name: Option<String>,
    title: Option<String>,
    description: Option<String>,
    arguments: Vec<Argument>,
}

impl PromptFile {
    /// Reads the text of a file; `stem` is its name unless the front matter has one.
    pub(crate) fn parse(stem: &str, text: &str) -> Result<Self, FormatError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, line)| line.trim_end() != FENCE) {
            return Err(FormatError::NoFrontMatter);
        }
        let mut front = String::new();
        loop {
            let (_, line) = lines.next().ok_or(FormatError::OpenFrontMatter)?;
            if line.trim_end() == FENCE {
                break;
            }
            front.push_str(line);
            front.push('\n');
        }
        let front: FrontMatter =
            toml::from_str(&front).map_err(|error| FormatError::FrontMatter(one_line(error.message())))?;
        check_arguments(&front.arguments)?;
        let name = front.name.unwrap_or_else(|| stem.to_owned());
        if !is_prompt_name(&name) {
            return Err(FormatError::Name(name));
        }
        let messages = messages(lines)?;
        let (title, description) = (front.title, front.description);
        Ok(Self { name, title, description, arguments: front.arguments, messages })
    }
}

fn check_arguments(arguments: &[Argument]) -> Result<(), FormatError> {
    if arguments.len() > MAX_ARGUMENTS || arguments.iter().any(|argument| argument.values.len() > MAX_VALUES)
    {
        return Err(FormatError::TooMany);
    }
    let mut seen = BTreeSet::new();
    for argument in arguments {
        if !is_argument_name(&argument.name) {
            return Err(FormatError::ArgumentName(argument.name.clone()));
        }
        if !seen.insert(&argument.name) {
            return Err(FormatError::RepeatedArgument(argument.name.clone()));
        }
        if argument.required && argument.default.is_some() {
            return Err(FormatError::UselessDefault(argument.name.clone()));
        }
    }
    Ok(())
}

fn messages<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Vec<Message>, FormatError> {
    let mut messages: Vec<Message> = Vec::new();
    let mut current: Option<Message> = None;
    for (number, line) in lines {
        let number = number + 1;
        if let Some((role, resource)) = marker(number, line)? {
            messages.extend(current.take());
            current = Some(Message { role, resource, body: String::new(), line: number + 1 });
            continue;
        }
        let message = current.get_or_insert_with(|| Message {
            role: Role::User,
            resource: None,
            body: String::new(),
            line: number,
        });
        message.body.push_str(line);
        message.body.push('\n');
    }
    messages.extend(current);
    messages.retain(|message| !message.body.trim().is_empty());
    match messages.len() {
        0 => Err(FormatError::NoMessage),
        1..=MAX_MESSAGES => Ok(messages),
        _ => Err(FormatError::TooMany),
    }
}

type Marker = (Role, Option<Resource>);

/// Reads a line that begins a message; `None` if it is text.
fn marker(number: usize, line: &str) -> Result<Option<Marker>, FormatError> {
    let Some(behind) = line.strip_prefix(FENCE).and_then(|rest| rest.strip_prefix(' ')) else {
        return Ok(None);
    };
    let behind = behind.trim();
    let (word, attributes) = match behind.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim()),
        None => (behind, ""),
    };
    let is_word = !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase());
    let is_marker = is_word && (attributes.is_empty() || attributes.starts_with('{'));
    if !is_marker {
        return Ok(None);
    }
    let role = match word {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err(FormatError::Role { line: number, word: word.to_owned() }),
    };
    if attributes.is_empty() {
        return Ok(Some((role, None)));
    }
    let read: Result<Wrapped, _> = toml::from_str(&format!("resource = {attributes}"));
    match read {
        Ok(Wrapped { resource }) => Ok(Some((role, Some(resource)))),
        Err(error) => Err(FormatError::Attributes { line: number, why: one_line(error.message()) }),
    }
}

#[derive(Deserialize)]
struct Wrapped {
    resource: Resource,
}

fn is_prompt_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c))
}

fn is_argument_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        PromptFile::parse("stem", text).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = "+++\nname = \"review\"\ntitle = \"T\"\ndescription = \"D\"\n[[arguments]]\nname = \"code\"\nrequired = true\n\
                    [[arguments]]\nname = \"style\"\nvalues = [\"short\", \"long\"]\ndefault = \"short\"\n+++\n\nFirst {{ code }}\n\n\
                    +++ assistant\nSecond\n+++ user { resource = \"a://b\", mime_type = \"text/plain\" }\nThird\n";
        let file = PromptFile::parse("stem", text).unwrap();
        assert_eq!((file.name.as_str(), file.title.as_deref()), ("review", Some("T")));
        let arguments: Vec<_> = file.arguments.iter().map(|a| (a.name.as_str(), a.required)).collect();
        assert_eq!(arguments, [("code", true), ("style", false)]);
        let messages: Vec<_> =
            file.messages.iter().map(|m| (m.role, m.body.trim(), m.resource.is_some(), m.line)).collect();
        assert_eq!(
            messages,
            [
                (Role::User, "First {{ code }}", false, 13),
                (Role::Assistant, "Second", false, 17),
                (Role::User, "Third", true, 19),
            ]
        );
    }

    #[test]
    fn the_name_is_the_stem_unless_given() {
        let file = PromptFile::parse("stem", "+++\n+++\nx").unwrap();
        assert_eq!((file.name.as_str(), file.messages.len()), ("stem", 1));
        assert_eq!(
            PromptFile::parse("stem", "\u{feff}+++\r\n+++ \r\nx\r\n").unwrap().messages[0].body,
            "x\n"
        );
    }

    #[test]
    fn lines_that_only_look_like_markers_are_text() {
        let text =
            "+++\n+++\n+++ b/src/main.rs\n+++\n++++ user\n+++user\n +++ user\n+++ User\n+++ a longer line\n";
        let file = PromptFile::parse("stem", text).unwrap();
        assert_eq!(file.messages.len(), 1);
        assert_eq!(file.messages[0].body.lines().count(), 7);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "does not begin"),
            ("hello", "does not begin"),
            ("+++\nname = 1", "does not end"),
            ("+++\nname = 1\n+++\nx", "front matter"),
            ("+++\nnam = \"x\"\n+++\nx", "nam"),
            ("+++\nname = \"a b\"\n+++\nx", "`a b`"),
            ("+++\nname = \"\"\n+++\nx", "prompt's name"),
            ("+++\n[[arguments]]\nname = \"1a\"\n+++\nx", "`1a`"),
            ("+++\n[[arguments]]\nrequired = true\n+++\nx", "argument's name"),
            ("+++\n[[arguments]]\nname = \"a\"\n[[arguments]]\nname = \"a\"\n+++\nx", "twice"),
            ("+++\n[[arguments]]\nname = \"a\"\nrequired = true\ndefault = \"x\"\n+++\nx", "default"),
            ("+++\n+++\n", "no message"),
            ("+++\n+++\n \n+++ user\n\t\n", "no message"),
            ("+++\n+++\nx\n+++ system\ny", "line 4: `system`"),
            ("+++\n+++\n+++ user { resource = 1 }\ny", "line 3"),
            ("+++\n+++\n+++ user { mime_type = \"a/b\" }\ny", "line 3"),
            ("+++\n+++\n+++ user { resource = \"a\", x = 1 }\ny", "line 3"),
            ("+++\n+++\n+++ user { resource = \"a\" }\n[x]\n+++ user { resource = \"a\"\ny", "line 5"),
        ] {
            assert!(error(text).contains(words), "{text:?}: {}", error(text));
        }
        let many: String = (0..=MAX_MESSAGES).map(|_| "+++ user\nx\n").collect();
        assert_eq!(PromptFile::parse("s", &format!("+++\n+++\n{many}")), Err(FormatError::TooMany));
    }
}
