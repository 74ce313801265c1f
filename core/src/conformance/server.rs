//! Plays scripts on threads of the system, over loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::player::{Op, Player};
use super::{Outcome, Script, Served};

/// Starts a server on a free port.
pub(super) fn start(script: Script) -> Served {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let addr = listener.local_addr().expect("a bound socket has an address");
    let (served, reporter) = Served::new(addr, &script);
    let serve = move || {
        for (number, steps) in script.connections.into_iter().enumerate() {
            let Ok((stream, client)) = listener.accept() else { return };
            let reporter = reporter.clone();
            thread::spawn(move || reporter.report(play(Player::new(steps), stream, client, number)));
        }
    };
    thread::spawn(serve);
    served
}

fn play(mut player: Player, stream: TcpStream, client: SocketAddr, number: usize) -> Outcome {
    if let Err(error) = stream.set_nodelay(true) {
        player.failed(error);
    }
    let mut stream = Some(stream);
    let mut buf = Vec::new();
    loop {
        let op = player.poll();
        let Some(socket) = &mut stream else {
            match op {
                Op::Wait(signal) => signal.wait_blocking(),
                Op::End => return player.outcome(number, client),
                _ => {}
            }
            continue;
        };
        let done = match op {
            Op::Read(most) => {
                buf.resize(most, 0);
                socket.read(&mut buf).map(|read| player.received(&buf[..read]))
            }
            Op::Write(bytes) => socket.write_all(&bytes),
            Op::Wait(signal) => {
                signal.wait_blocking();
                Ok(())
            }
            Op::GiveWay => {
                thread::yield_now();
                Ok(())
            }
            Op::Shutdown => socket.shutdown(Shutdown::Write),
            Op::Close => {
                stream = None;
                Ok(())
            }
            Op::Reset => {
                let lingers = socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
                stream = None;
                lingers
            }
            Op::End => {
                drop(stream);
                return player.outcome(number, client);
            }
        };
        if let Err(error) = done {
            player.failed(error);
        }
    }
}
