//! The snippets of the book and of README, as doc tests: what a page shows compiles, and runs unless it needs a network.

macro_rules! pages {
    ($($name:ident: $file:literal;)*) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!($file)]
            pub struct $name;
        )*
    };
}

pages! {
    Readme: "../README.md";
    TheLoop: "src/loop.md";
    FirstScraper: "src/first-scraper.md";
    Catalogue: "src/catalogue.md";
    Monitor: "src/monitor.md";
    Layers: "src/layers.md";
    Sessions: "src/sessions.md";
    Testing: "src/testing.md";
    Why: "src/why.md";
    Limiter: "src/limiter.md";
    Errors: "src/errors.md";
    Faults: "src/faults.md";
    Executor: "src/executor.md";
    Capacity: "src/capacity.md";
    Cost: "src/cost.md";
    FromReqwest: "src/from-reqwest.md";
}
