//! A dynamic registry: calling `open-station` adds a tool and a resource while the registry runs, `close-station` removes
//! them, and clients are told both times. Also: a default value, progress, log messages, a template and a prompt.

mod process;

use std::time::Duration;

use registry::{
    Call, Completion, Content, Error, Handle, Input, Json, Kind, Message, Output, Prompt, Registry, Resource,
    ResourceContents, ResourceTemplate, Runtime, Tool,
};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
struct Station {
    /// Name of the city
    city: String,
}

#[derive(Deserialize)]
struct Question {
    location: String,
    units: String,
}

fn report(city: &str, units: &str) -> String {
    let celsius = city.bytes().map(i32::from).sum::<i32>() % 35;
    if units == "fahrenheit" {
        format!("{city}: {} °F", celsius * 9 / 5 + 32)
    } else {
        format!("{city}: {celsius} °C")
    }
}

/// The tool of the founding documents, with a default.
fn weather() -> Tool {
    Tool::new("weather")
        .description("Get weather information for a location")
        .inputs([
            Input::string("location").required().description("The location to get weather for"),
            Input::string("units")
                .description("Temperature units (celsius or fahrenheit)")
                .default("celsius"),
        ])
        .raw_handler(|arguments: Json, call: Call| async move {
            let question: Question = arguments.read().map_err(Error::invalid_params)?;
            for step in 1..=3 {
                call.progress(step, 3, "measuring");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            call.log(mcp::log::Level::Info, "measured");
            Ok(report(&question.location, &question.units))
        })
}

fn open_station(handle: Handle) -> Tool {
    Tool::new("open-station").description("Opens a weather station").handler(move |station: Station, _| {
        let handle = handle.clone();
        async move {
            let city = station.city;
            let tool = Tool::new(format!("weather-{city}")).raw_handler({
                let city = city.clone();
                move |_, _| std::future::ready(Ok(report(&city, "celsius")))
            });
            handle.add_tool(tool).map_err(Error::invalid_params)?;
            let uri = format!("weather://{city}/station");
            handle.add_resource(Resource::text(&uri, &city, "open")).map_err(Error::invalid_params)?;
            Ok(format!("the station in {city} is open"))
        }
    })
}

fn close_station(handle: Handle) -> Tool {
    Tool::new("close-station").description("Closes a weather station").handler(move |station: Station, _| {
        handle.remove_resource(&format!("weather://{}/station", station.city));
        let was_open = handle.remove_tool(&format!("weather-{}", station.city));
        std::future::ready(match was_open {
            true => Ok("closed"),
            false => Err(Error::failed(format!("there is no station in {}", station.city))),
        })
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::new("weather").version("1.0.0").serves(Kind::Resources);
    let handle = registry.handle();
    let registry = registry
        .tool(weather())
        .tool(open_station(handle.clone()))
        .tool(close_station(handle))
        .resource_template(
            ResourceTemplate::new("weather://{city}/today", "today", |variables, call: Call| async move {
                let text = report(variables.get("city")?, "celsius");
                Ok(Output::contents([ResourceContents::text(call.target(), "text/plain", &text)]))
            })
            .complete(|request| Completion::matching(["Berlin", "Bern", "Lyon"], &request.value)),
        )
        .prompt(
            Prompt::new("packing-list")
                .description("What to pack for a journey")
                .argument("city", "Where to", true)
                .complete("city", |request| Completion::matching(["Berlin", "Bern", "Lyon"], &request.value))
                .handler(|arguments, _| async move {
                    let city = arguments.get("city").cloned().unwrap_or_default();
                    let text =
                        format!("What do I pack for {city}? The weather is {}.", report(&city, "celsius"));
                    Ok(Output::messages([Message::user(Content::text(text))]))
                }),
        );
    process::run("weather", registry.build(Runtime::tokio())?).await
}
