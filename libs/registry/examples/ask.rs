//! Asks the user in the middle of a call: once with a handler that waits, once with one that keeps no state.

mod process;

use registry::{Ask, Call, Elicited, Error, Input, Json, Output, Registry, Runtime, Tool};
use serde::Deserialize;

#[derive(Deserialize)]
struct Passenger {
    name: String,
}

fn who() -> Ask {
    Ask::new().elicit(
        "who",
        "Who is flying?",
        [Input::string("name").required().description("Name as in the passport")],
    )
}

fn booked(who: Elicited<Passenger>) -> String {
    match who {
        Elicited::Accepted(passenger) => format!("booked for {}", passenger.name),
        Elicited::Declined => "not booked: you said no".to_owned(),
        Elicited::Cancelled => "not booked".to_owned(),
    }
}

/// Waits where it asks; the client's answer reaches this very handler.
async fn book(_: Json, call: Call) -> Result<String, Error> {
    let answers = call.ask(who()).await?;
    Ok(booked(answers.elicited("who")?))
}

/// Returns what it asks, and is called again with the answer; any replica may be the one.
async fn book_later(_: Json, call: Call) -> Result<Output, Error> {
    match call.round_answers() {
        None => Ok(Output::input_required(who(), "flight 7")),
        Some(answers) => Ok(Output::text(booked(answers.elicited("who")?))),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::new("ask")
        .version("1.0.0")
        .tool(Tool::new("book").description("Books a flight, asking who flies").raw_handler(book))
        .tool(Tool::new("book-later").description("The same without state").raw_handler(book_later));
    process::run("ask", registry.build(Runtime::tokio())?).await
}
