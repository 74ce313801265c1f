//! `tidegate fetch`: a list of URLs, each fetched once or as often as asked.

use http::Method;
use tidegate::Profile;

use super::args::FetchArgs;
use super::input::List;
use super::output::{Outputs, line};
use super::page::PageParser;
use super::record::{NoMore, Record, Shape};
use super::setup::{Setup, USER_AGENT};
use super::{Failure, run};

pub(super) fn run(args: FetchArgs) -> Result<u8, Failure> {
    let FetchArgs { list, repeat, common } = args;
    let list = List::open(list, &common, Method::GET, repeat.get())?;
    let user_agent = common.user_agent.as_deref().unwrap_or(USER_AGENT);
    let setup = Setup::new(&common, Profile::list(), user_agent, false)?;
    let outputs = Outputs::open(&common, false)?;
    let (requests, fault) = list.stream()?;
    let builder =
        setup.builder(&common).fetcher(setup.fetcher.clone()).requests(requests).parse_with(PageParser::new(&common));
    let shape = Shape { headers: common.include_headers };
    let ended = run::to_end(
        builder,
        &common,
        outputs,
        Box::new(move |delivery, buffer| line(&Record::new(delivery, shape, NoMore {}), buffer)),
    )?;
    ended.finish(&common, None, fault.take())
}
