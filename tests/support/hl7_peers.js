// Peers of HL7 from the npm registry: node hl7_peers.js simple|client PORT, server PORT FILE. What happens goes to stdout, a line each.
const [kind, port, file] = process.argv.slice(2);
const say = (text) => process.stdout.write(text + "\n");
const fail = (error) => { say("ERROR " + error); process.exit(1); };
if (kind === "simple") {
  const hl7 = require("simple-hl7");
  const client = hl7.Server.createTcpClient("127.0.0.1", Number(port));
  const message = new hl7.Message("HIS", "MTF", "EDGE", "MTF", "20260105080000", "", ["ADT", "A08"], "SIMPLE1", "P", "2.3.1");
  message.addSegment("PID", "1", "", ["S0001", "", "", "MTF0067", "MR"], "", ["TESTPATIENT", "SIMPLE"], "", "19700101", "F");
  client.send(message, (error, ack) => {
    if (error) fail(error);
    say("ACK " + ack.getSegment("MSA").getField(1) + " " + ack.getSegment("MSA").getField(2));
    process.exit(0);
  });
} else if (kind === "client") {
  const { Client, Message } = require("node-hl7-client");
  const client = new Client({ host: "127.0.0.1", version: "2.5.1" });
  const text = ["MSH|^~\\&|HIS|MTF|EDGE|MTF|20260105080000||ADT^A08^ADT_A01|NODE1|P|2.5.1", "EVN|A08|20260105080000",
    "PID|1||N0001^^^MTF0067^MR||TESTPATIENT^NODE||19700101|F"].join("\r");
  const connection = client.createConnection({ port: Number(port) }, async (res) => {
    const message = res.getMessage();
    say("ACK " + message.get("MSA.1").toString() + " " + message.get("MSA.2").toString());
    process.exit(0);
  });
  connection.sendMessage(new Message({ text })).catch(fail);
} else {
  const { Server } = require("node-hl7-server");
  const server = new Server({ bindAddress: "127.0.0.1" });
  const inbound = server.createInbound({ port: Number(port) }, async (req, res) => {
    const message = req.getMessage();
    say("MESSAGE " + message.get("MSH.10").toString());
    await res.sendResponse("AA");
  });
  inbound.on("listen", () => say("LISTENS"));
}
setTimeout(() => fail("nothing happened for 60 s"), kind === "server" ? 600000 : 60000);
