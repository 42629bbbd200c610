//! The template engine with everything taken away that a text does not need, and limits on what is left.

use std::io;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::compiled::RenderError;
use super::escape::Context;
use super::{MAX_FIELD_BYTES, filters};

/// Steps (instructions of the engine) that one field may take: a loop over five hundred items with some fields each.
/// A step may go through all of the data, so together with its limits this bounds the time of a rendering: the worst
/// field known takes a fraction of a second, an ordinary one some microseconds.
const MAX_STEPS: u64 = 10_000;
/// Deepest recursion of the engine.
const MAX_RECURSION: usize = 64;

/// The environment that every template starts from; its clones share the filters.
static BASE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_fuel(Some(MAX_STEPS));
    env.set_recursion_limit(MAX_RECURSION);
    // The default cuts a final line end, but only in texts that have tags.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|name| match name.split('.').next() {
        Some("html") => AutoEscape::Html,
        Some("line") => AutoEscape::Custom("line".into()),
        _ => AutoEscape::None,
    });
    env.set_formatter(emit);
    filters::add(&mut env);
    env
});

/// A fresh environment without templates.
pub(super) fn environment() -> Environment<'static> {
    BASE.clone()
}

/// The name under which the `number`th source is kept; it carries the context, for the escaping.
pub(super) fn source_name(context: Context, number: usize) -> String {
    let context = match context {
        Context::Html => "html",
        Context::Line => "line",
        Context::Plain => "plain",
    };
    format!("{context}.{number}")
}

/// Writes a value. Everything is escaped, also what a filter or the template itself made: nothing counts as safe.
fn emit(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let context = match state.auto_escape() {
        AutoEscape::Html => Context::Html,
        AutoEscape::Custom(_) => Context::Line,
        _ => Context::Plain,
    };
    match (value.kind(), value.as_str()) {
        // An `if` expression without `else`.
        (ValueKind::Undefined | ValueKind::None, _) => Ok(()),
        (_, Some(text)) => out.write_str(&context.escape(text)).map_err(Error::from),
        _ => out.write_str(&context.escape(&filters::show(value)?)).map_err(Error::from),
    }
}

/// Renders one source.
pub(super) fn render(
    env: &Environment<'static>,
    name: &str,
    field: &str,
    data: &Value,
) -> Result<String, RenderError> {
    let mut output = Capped(Vec::new());
    env.get_template(name)
        .and_then(|template| template.render_captured_to(data.clone(), &mut output).map(drop))
        .map_err(|error| describe(&error, field))?;
    // Only whole strings were written.
    String::from_utf8(output.0).map_err(|_| RenderError::Failed { field: field.to_owned(), line: 0 })
}

/// The engine's error without its text, which may repeat values.
fn describe(error: &Error, field: &str) -> RenderError {
    let (field, line) = (field.to_owned(), error.line().unwrap_or(0));
    match error.kind() {
        ErrorKind::OutOfFuel => RenderError::TooManySteps { field },
        ErrorKind::WriteFailure => RenderError::OutputTooLarge { field },
        ErrorKind::UndefinedError => RenderError::MissingValue { field, line },
        _ => RenderError::Failed { field, line },
    }
}

/// A buffer that refuses to grow beyond a field.
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_FIELD_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
