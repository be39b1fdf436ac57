//! Filling a prompt in: a small, closed template language.
//!
//! The syntax is Jinja's (minijinja). Nothing is reachable that is not named here: no files, no environment, only the filters
//! and tests of [`environment`] and the prompt's own arguments; there is nothing to include or import. Every name that a
//! template uses must be an argument, which is checked when the file is read. A run is bounded in steps ([`FUEL`]) and in output ([`MAX_OUTPUT`]), and
//! what clients can pass in is bounded too ([`MAX_INPUT`]). Nothing is escaped: the output is text for a model.
//!
//! Prompt files are configuration, so whoever writes them can waste memory (`{{ "x" * 100000000 }}`, or a loop that prints an
//! argument again and again inside `{% set %}`). Whoever only sends arguments cannot: filters whose result grows with the
//! product of two values measure it first.

use std::collections::BTreeMap;
use std::io;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, filters, functions, tests as checks,
};

use crate::format::{Argument, Message, PromptFile, Resource, Role};

/// Steps one prompt may take to be filled in.
pub(crate) const FUEL: u64 = 200_000;
/// Longest text of all messages of a prompt together, in bytes.
pub(crate) const MAX_OUTPUT: usize = 1 << 20;
/// Longest text of all arguments together, in bytes.
pub(crate) const MAX_INPUT: usize = 1 << 20;

/// A prompt, ready to be filled in.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) file: PromptFile,
    environment: Environment<'static>,
}

/// A message, filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filled<'a> {
    pub(crate) role: Role,
    pub(crate) resource: Option<&'a Resource>,
    pub(crate) text: String,
}

/// Why a file's templates are not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CompileError {
    #[error("line {line}: {why}")]
    Syntax {
        /// Of the file.
        line: usize,
        /// What is wrong.
        why: String,
    },
    #[error("`{0}` is used but is not an argument")]
    Undeclared(String),
}

/// Why a prompt is not filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FillError {
    /// The caller's doing.
    #[error("argument `{0}` is missing")]
    Missing(String),
    /// The caller's doing.
    #[error("there is no argument `{0}`")]
    Unknown(String),
    /// The caller's doing.
    #[error("the arguments are longer than {MAX_INPUT} bytes")]
    InputTooLong,
    /// Only the template knows whose doing.
    #[error("the prompt takes more than {FUEL} steps to fill in")]
    OutOfFuel,
    /// Only the template knows whose doing.
    #[error("the prompt is longer than {MAX_OUTPUT} bytes once filled in")]
    OutputTooLong,
    /// Only the template knows whose doing.
    #[error("the prompt cannot be filled in: {0}")]
    Template(String),
}

impl Prompt {
    /// Compiles the templates of a file.
    pub(crate) fn compile(file: PromptFile) -> Result<Self, CompileError> {
        let mut environment = environment();
        for (at, message) in file.messages.iter().enumerate() {
            let body = message.body.trim_matches('\n').to_owned();
            environment
                .add_template_owned(at.to_string(), body)
                .map_err(|error| CompileError::at(message, &error))?;
        }
        let prompt = Self { file, environment };
        prompt.check_names()?;
        prompt.check_run()?;
        Ok(prompt)
    }

    /// Every name must be an argument, or a function every template has.
    fn check_names(&self) -> Result<(), CompileError> {
        for (_, template) in self.environment.templates() {
            let mut names: Vec<String> = template.undeclared_variables(false).into_iter().collect();
            names.sort_unstable();
            for name in names {
                let is_known = self.file.arguments.iter().any(|argument| argument.name == name)
                    || self.environment.globals().any(|(global, _)| global == name);
                if !is_known {
                    return Err(CompileError::Undeclared(name));
                }
            }
        }
        Ok(())
    }

    /// Filters, tests and other templates are looked up when they are met, so a run is the way to find those that do not exist.
    fn check_run(&self) -> Result<(), CompileError> {
        let sample = |argument: &Argument| argument.values.first().or(argument.default.as_ref()).cloned();
        let arguments = &self.file.arguments;
        let samples: BTreeMap<&str, String> = arguments
            .iter()
            .map(|argument| (argument.name.as_str(), sample(argument).unwrap_or_default()))
            .collect();
        let context = Value::from_serialize(&samples);
        for (at, message) in self.file.messages.iter().enumerate() {
            let mut output = Limited { left: MAX_OUTPUT, text: Vec::new() };
            let Err(error) = self.render(at, &context, &mut output) else { continue };
            let is_unknown = [
                ErrorKind::UnknownFilter,
                ErrorKind::UnknownTest,
                ErrorKind::UnknownFunction,
                ErrorKind::UnknownMethod,
                ErrorKind::TemplateNotFound,
                ErrorKind::BadInclude,
            ];
            if is_unknown.contains(&error.kind()) {
                return Err(CompileError::at(message, &error));
            }
        }
        Ok(())
    }

    /// Fills the prompt in. A message that is empty then is left out.
    pub(crate) fn fill(&self, given: &BTreeMap<String, String>) -> Result<Vec<Filled<'_>>, FillError> {
        let arguments = &self.file.arguments;
        if let Some(unknown) = given.keys().find(|name| !arguments.iter().any(|known| known.name == **name)) {
            return Err(FillError::Unknown(unknown.clone()));
        }
        if given.values().map(String::len).sum::<usize>() > MAX_INPUT {
            return Err(FillError::InputTooLong);
        }
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for argument in arguments {
            let value = match given.get(&argument.name) {
                Some(value) => value.as_str(),
                None if argument.required => return Err(FillError::Missing(argument.name.clone())),
                None => argument.default.as_deref().unwrap_or_default(),
            };
            values.insert(&argument.name, value);
        }
        let context = Value::from_serialize(&values);
        let mut left = MAX_OUTPUT;
        let mut filled = Vec::with_capacity(self.file.messages.len());
        for (at, message) in self.file.messages.iter().enumerate() {
            let mut output = Limited { left, text: Vec::new() };
            self.render(at, &context, &mut output).map_err(|error| FillError::of(message, &error))?;
            left = output.left;
            let text = String::from_utf8_lossy(&output.text).into_owned();
            if !text.trim().is_empty() {
                filled.push(Filled { role: message.role, resource: message.resource.as_ref(), text });
            }
        }
        Ok(filled)
    }

    fn render(&self, at: usize, context: &Value, output: &mut Limited) -> Result<(), Error> {
        self.environment.get_template(&at.to_string())?.render_captured_to(context, output).map(drop)
    }
}

impl CompileError {
    fn at(message: &Message, error: &Error) -> Self {
        Self::Syntax { line: line_in_file(message, error), why: what(error) }
    }
}

impl FillError {
    fn of(message: &Message, error: &Error) -> Self {
        if error.kind() == ErrorKind::OutOfFuel {
            return Self::OutOfFuel;
        }
        if error.kind() == ErrorKind::WriteFailure {
            return Self::OutputTooLong;
        }
        Self::Template(format!("{} (line {})", what(error), line_in_file(message, error)))
    }

    /// Whether the caller can mend it by sending other arguments.
    pub(crate) fn is_callers(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Unknown(_) | Self::InputTooLong => true,
            Self::OutOfFuel | Self::OutputTooLong | Self::Template(_) => false,
        }
    }
}

fn line_in_file(message: &Message, error: &Error) -> usize {
    let skipped = message.body.len() - message.body.trim_start_matches('\n').len();
    message.line + skipped + error.line().unwrap_or(1).saturating_sub(1)
}

fn what(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

/// Takes output up to a limit.
struct Limited {
    left: usize,
    text: Vec<u8>,
}

impl io::Write for Limited {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(part.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything a template can use.
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(50);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_function("range", functions::range);
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("join", join);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lines", filters::lines);
    environment.add_filter("list", filters::list);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("replace", replace);
    environment.add_filter("reverse", filters::reverse);
    environment.add_filter("sort", filters::sort);
    environment.add_filter("split", filters::split);
    environment.add_filter("title", filters::title);
    environment.add_filter("tojson", filters::tojson);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("unique", filters::unique);
    environment.add_filter("upper", filters::upper);
    environment.add_test("defined", checks::is_defined);
    environment.add_test("endingwith", checks::is_endingwith);
    environment.add_test("in", checks::is_in);
    environment.add_test("startingwith", checks::is_startingwith);
    environment
}

/// `replace`, refused before it is done if the result would be too long.
fn replace(text: &str, from: &str, to: &str) -> Result<String, Error> {
    let found = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    check_length(text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(text.replace(from, to))
}

/// `join`, refused before it is done if the result would be too long.
fn join(values: Value, between: Option<&str>) -> Result<String, Error> {
    let between = between.unwrap_or_default();
    let parts: Vec<String> = values.try_iter()?.map(|value| value.to_string()).collect();
    let text: usize = parts.iter().map(String::len).sum();
    check_length(text.saturating_add(parts.len().saturating_mul(between.len())))?;
    Ok(parts.join(between))
}

fn check_length(length: usize) -> Result<(), Error> {
    if length > 2 * MAX_OUTPUT {
        return Err(Error::new(ErrorKind::InvalidOperation, "the result is too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
