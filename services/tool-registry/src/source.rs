//! The built-in tools.

use registry::{Call, Error, Structured, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::ToolName;

/// The tool with this name, in the process with that name.
pub(crate) fn tool(name: ToolName, node: &str) -> Tool {
    match name {
        ToolName::Echo => echo(node.to_owned()),
        ToolName::Calculator => calculator(),
    }
}

#[derive(Deserialize, JsonSchema)]
struct Message {
    message: String,
}

#[derive(Serialize, JsonSchema)]
struct Echo {
    /// The message
    echo: String,
    /// Name of the process that answered
    node: String,
}

fn echo(node: String) -> Tool {
    Tool::new("echo")
        .description("Echo back the input message")
        .string("message")
        .required()
        .description("The message to echo back")
        .add()
        .handler(move |input: Message, _: Call| {
            let node = node.clone();
            async move { Ok(Structured(Echo { echo: input.message, node })) }
        })
}

#[derive(Deserialize, JsonSchema)]
struct Operands {
    operation: String,
    a: f64,
    b: f64,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Outcome {
    /// What comes out
    result: f64,
}

fn calculator() -> Tool {
    Tool::new("calculator")
        .description("Performs basic arithmetic operations")
        .string("operation")
        .required()
        .description("Operation to perform (add, subtract, multiply, divide)")
        .add()
        .number("a")
        .required()
        .description("First operand")
        .add()
        .number("b")
        .required()
        .description("Second operand")
        .add()
        .handler(|input: Operands, _: Call| async move { compute(&input).map(Structured) })
}

fn compute(Operands { operation, a, b }: &Operands) -> Result<Outcome, Error> {
    let result = match operation.as_str() {
        "add" => a + b,
        "subtract" => a - b,
        "multiply" => a * b,
        "divide" if *b == 0.0 => return Err(Error::failed("division by zero")),
        "divide" => a / b,
        _ => return Err(Error::invalid_params(format!("unknown operation {operation:?}"))),
    };
    if result.is_finite() { Ok(Outcome { result }) } else { Err(Error::failed("the result is too large")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn computed(operation: &str, a: f64, b: f64) -> Result<f64, String> {
        let operands = Operands { operation: operation.to_owned(), a, b };
        compute(&operands).map(|outcome| outcome.result).map_err(|error| error.to_string())
    }

    #[test]
    fn the_four_operations_and_their_refusals() {
        assert_eq!(computed("add", 1.0, 2.0), Ok(3.0));
        assert_eq!(computed("subtract", 1.0, 2.0), Ok(-1.0));
        assert_eq!(computed("multiply", 6.0, 7.5), Ok(45.0));
        assert_eq!(computed("divide", 1.0, 4.0), Ok(0.25));
        assert_eq!(computed("divide", 1.0, 0.0), Err("division by zero".into()));
        assert_eq!(computed("divide", 1.0, -0.0), Err("division by zero".into()));
        assert_eq!(computed("power", 1.0, 2.0), Err("invalid params: unknown operation \"power\"".into()));
        assert_eq!(computed("multiply", f64::MAX, 2.0), Err("the result is too large".into()));
    }
}
