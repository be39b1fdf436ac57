//! The calculator of the founding documents as a registry process of its own: the tool is defined in one place and its
//! handler set in another, on raw arguments.
//!
//! Try it: `cargo run -p registry --example calculator -- --listen 127.0.0.1:7300`, and in another terminal
//! `trunkline up --registry 127.0.0.1:7300=team`. Clients then see the tool `team__calculator`.

mod process;

use registry::{Call, Error, Input, Json, Output, Registry, Runtime, Tool};

fn definition() -> Tool {
    Tool::new("calculator").description("Performs basic arithmetic operations").inputs([
        Input::string("operation")
            .required()
            .description("Operation to perform (add, subtract, multiply, divide)"),
        Input::number("a").required().description("First operand"),
        Input::number("b").required().description("Second operand"),
    ])
}

#[derive(serde::Deserialize)]
struct Operands {
    operation: String,
    a: f64,
    b: f64,
}

async fn calculate(arguments: Json, _: Call) -> Result<Output, Error> {
    let Operands { operation, a, b } = arguments.read().map_err(Error::invalid_params)?;
    let result = match operation.as_str() {
        "add" => a + b,
        "subtract" => a - b,
        "multiply" => a * b,
        "divide" if b == 0.0 => return Err(Error::invalid_params("division by zero")),
        "divide" => a / b,
        _ => return Err(Error::invalid_params(format!("unknown operation {operation}"))),
    };
    Ok(Output::structured(&serde_json::json!({ "result": result })))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::new("calculator")
        .version("1.0.0")
        .define(definition())
        .set_handler("calculator", calculate);
    process::run("calculator", registry.build(Runtime::tokio())?).await
}
