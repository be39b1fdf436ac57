//! The built-in tools.

use registry::{Call, Error, Structured, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Builtin;

/// The definition and the work of a tool.
pub(crate) fn tool(builtin: Builtin, node: &str) -> Tool {
    match builtin {
        Builtin::Echo => echo(node.to_owned()),
        Builtin::Calculator => Tool::new("calculator")
            .description("Performs basic arithmetic operations")
            .handler(|input: Sum, _: Call| async move {
                calculate(&input).map(|result| Structured(Total { result }))
            }),
    }
}

#[derive(Deserialize, JsonSchema)]
struct Said {
    /// The message to echo back
    message: String,
}

#[derive(Serialize, JsonSchema)]
struct Echo {
    /// The message, as it came
    echo: String,
    /// The node that answered
    node: String,
}

fn echo(node: String) -> Tool {
    Tool::new("echo").description("Echo back the input message").handler(move |said: Said, _: Call| {
        let node = node.clone();
        async move { Ok(Structured(Echo { echo: said.message, node })) }
    })
}

#[derive(Deserialize, JsonSchema)]
struct Sum {
    /// Operation to perform (add, subtract, multiply, divide)
    operation: Operation,
    /// First operand
    a: f64,
    /// Second operand
    b: f64,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

#[derive(Serialize, JsonSchema)]
struct Total {
    /// The result of the operation
    result: f64,
}

fn calculate(input: &Sum) -> Result<f64, Error> {
    let (a, b) = (input.a, input.b);
    let result = match input.operation {
        Operation::Add => a + b,
        Operation::Subtract => a - b,
        Operation::Multiply => a * b,
        Operation::Divide if b == 0.0 => return Err(Error::failed("division by zero")),
        Operation::Divide => a / b,
    };
    if result.is_finite() { Ok(result) } else { Err(Error::failed("the result is too large")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_operations_and_their_limits() {
        let table = [
            (Operation::Add, 1.5, 2.0, Ok(3.5)),
            (Operation::Subtract, 1.0, 2.0, Ok(-1.0)),
            (Operation::Multiply, 3.0, -2.0, Ok(-6.0)),
            (Operation::Divide, 1.0, 4.0, Ok(0.25)),
            (Operation::Divide, 1.0, 0.0, Err("division by zero")),
            (Operation::Divide, 0.0, -0.0, Err("division by zero")),
            (Operation::Multiply, 1e308, 1e308, Err("the result is too large")),
        ];
        for (operation, a, b, expected) in table {
            let found = calculate(&Sum { operation, a, b }).map_err(|e| e.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{operation:?} {a} {b}");
        }
    }
}
