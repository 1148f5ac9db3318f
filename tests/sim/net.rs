//! A network that delays, reorders, duplicates, loses, truncates and garbles.

use turso_sync::io::{IoItem, SyncEngineIoRequest};
use turso_sync::protocol::pull::{PullDecoder, PullEvent, PullHeader, encode_header};

use super::rng::Rng;

/// Something under way.
pub enum Flight {
    /// To the server. Without `item` it is a copy that nobody waits for any more.
    Request {
        host: usize,
        item: Option<IoItem>,
        path: String,
        body: Vec<u8>,
    },
    /// Back to the host.
    Answer {
        host: usize,
        item: IoItem,
        status: u16,
        body: Vec<u8>,
    },
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug)]
pub enum Mishap {
    None,
    Lost,
    /// The host notices that the body was cut short.
    Broken,
    /// The host does not notice.
    Short,
    /// Nor that there is nothing behind the header of a download, from a server that does not count pages.
    HeaderOnly,
    /// A proxy answers instead.
    Replaced,
    /// A bit of a page is wrong.
    Garbled,
}

#[derive(Default)]
pub struct Network {
    pub flights: Vec<Flight>,
}

impl Network {
    pub fn send(&mut self, host: usize, item: IoItem) {
        let SyncEngineIoRequest::Http(http) = item.request() else {
            return;
        };
        let (path, body) = (http.path.clone(), http.body.clone());
        self.flights.push(Flight::Request {
            host,
            item: Some(item),
            path,
            body,
        });
    }

    /// A host died: its requests go on, its answers find nobody.
    pub fn forget(&mut self, dead: usize) {
        self.flights.retain_mut(|flight| match flight {
            Flight::Request { host, item, .. } if *host == dead => {
                item.take();
                true
            }
            Flight::Answer { host, .. } => *host != dead,
            _ => true,
        });
    }
}

/// Hands an answer to the host that waits for it.
pub fn deliver(item: &IoItem, status: u16, mut body: Vec<u8>, mishap: Mishap, rng: &mut Rng) {
    match mishap {
        Mishap::Lost => return item.poison("the connection was lost"),
        Mishap::Replaced => {
            item.status(*rng.pick(&[200, 404, 429, 500, 503]));
            item.push_buffer(b"<html>Come in, we are closed</html>");
            return item.done();
        }
        Mishap::Broken | Mishap::Short => body.truncate(rng.below(body.len() + 1)),
        Mishap::HeaderOnly => body = uncounted_header(&body).unwrap_or(body),
        // In the image of a page: only images have checksums.
        Mishap::Garbled if body.len() > 5000 => {
            let at = body.len() - 10 - rng.below(4000);
            body[at] ^= 1 << rng.below(8);
        }
        Mishap::None | Mishap::Garbled => {}
    }
    item.status(status);
    let piece = 1 + rng.below(5000);
    body.chunks(piece).for_each(|piece| item.push_buffer(piece));
    match mishap {
        Mishap::Broken => item.poison("the body was cut short"),
        _ => item.done(),
    }
}

/// The header of a download as other servers send it.
pub fn uncounted_header(body: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let _ = PullDecoder::new().push(body, &mut |event| {
        if let PullEvent::Header(header) = event {
            found = Some(header);
        }
        Ok(())
    });
    found.map(|header| {
        encode_header(&PullHeader {
            page_count: None,
            remaining: None,
            stream_zstd: None,
            ..header
        })
    })
}
