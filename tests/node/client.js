'use strict';
// Scenarios for the official gateway client. Usage: node client.js SETTINGS SCENARIO; prints one line of JSON.
// SETTINGS: {address, tlsRoots, mspId, certificate, privateKey, channel, chaincode, directory}

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const gateway = require('@hyperledger/fabric-gateway');

const settings = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const sign = gateway.signers.newPrivateKeySigner(crypto.createPrivateKey(settings.privateKey));
const identity = { mspId: settings.mspId, credentials: Buffer.from(settings.certificate) };
const text = (bytes) => Buffer.from(bytes).toString();
const run = (...operations) => JSON.stringify(operations);

function open(client, options = {}) {
  const deadline = (milliseconds) => () => ({ deadline: Date.now() + milliseconds });
  return gateway.connect({
    client,
    identity,
    signer: sign,
    hash: gateway.hash.sha256,
    evaluateOptions: deadline(10000),
    endorseOptions: deadline(20000),
    submitOptions: deadline(10000),
    commitStatusOptions: deadline(20000),
    ...options,
  });
}

function describe(error) {
  return {
    name: error.constructor.name,
    code: grpc.status[error.code] ?? error.code ?? null,
    message: error.message,
    details: (error.details ?? []).map((one) => ({ mspId: one.mspId, message: one.message })),
    transactionId: error.transactionId ?? null,
  };
}

async function caught(action) {
  try {
    return { result: text(await action()) };
  } catch (error) {
    return describe(error);
  }
}

async function take(iterable, count, pick) {
  const seen = [];
  try {
    for await (const one of iterable) {
      seen.push(pick(one));
      if (seen.length === count) break;
    }
  } finally {
    iterable.close();
  }
  return seen;
}

const scenarios = {
  async submit(contract) {
    const submitted = await contract.submitTransaction('Run', run(['put', 'node', 'one'], ['creator']));
    const evaluated = await contract.evaluateTransaction('Run', run(['get', 'node']));
    const commit = await contract.submitAsync('Run', { arguments: [run(['put', 'node', 'two'])] });
    const status = await commit.getStatus();
    return {
      submitted: JSON.parse(text(submitted)),
      evaluated: JSON.parse(text(evaluated)),
      status: { code: status.code, successful: status.successful, block: Number(status.blockNumber) },
      sameId: status.transactionId === commit.getTransactionId(),
    };
  },

  async offline(contract, network, client) {
    // The service that talks to the gateway has no key: everything is signed elsewhere.
    const online = gateway.connect({ client, identity, hash: gateway.hash.sha256 });
    const remote = online.getNetwork(settings.channel).getContract(settings.chaincode);
    const unsigned = remote.newProposal('Run', { arguments: [run(['put', 'offline', 'signed'])] });
    const proposal = online.newSignedProposal(unsigned.getBytes(), await sign(unsigned.getDigest()));
    const endorsed = await proposal.endorse();
    const transaction = online.newSignedTransaction(endorsed.getBytes(), await sign(endorsed.getDigest()));
    const submitted = await transaction.submit();
    const commit = online.newSignedCommit(submitted.getBytes(), await sign(submitted.getDigest()));
    const status = await commit.getStatus();
    const forged = online.newSignedCommit(submitted.getBytes(), await sign(Buffer.alloc(32)));
    return {
      successful: status.successful,
      block: Number(status.blockNumber),
      result: JSON.parse(text(transaction.getResult())),
      forged: await caught(async () => JSON.stringify((await forged.getStatus()).code)),
    };
  },

  async transient(contract) {
    const value = crypto.randomBytes(1 << 20);
    const proposal = contract.newProposal('Run', {
      arguments: [run(['putPrivate', 'shared', 'key', 'value'], ['emit', 'stored', 'key'])],
      transientData: { value },
    });
    const transaction = await proposal.endorse();
    const leaked = Buffer.from(transaction.getBytes()).includes(value.subarray(0, 64));
    const commit = await transaction.submit();
    const { successful } = await commit.getStatus();
    const read = await contract.evaluateTransaction('Run', run(['getPrivate', 'shared', 'key']));
    const named = await contract.evaluate('Run', {
      arguments: [run(['getPrivate', 'shared', 'key'])],
      endorsingOrganizations: [settings.mspId],
    });
    return {
      successful,
      leaked,
      same: JSON.parse(text(read))[0] === value.toString('hex'),
      named: text(named) === text(read),
    };
  },

  async events(contract, network) {
    const file = path.join(settings.directory, 'checkpoint.json');
    const pick = (event) => [event.eventName, text(event.payload), event.chaincodeName];
    const commit = await contract.submitAsync('Run', { arguments: [run(['emit', 'first', '1'])] });
    const { blockNumber } = await commit.getStatus();
    for (const name of ['second', 'third']) {
      await contract.submitTransaction('Run', run(['emit', name, name]));
    }
    const checkpointer = await gateway.checkpointers.file(file);
    const before = await network.getChaincodeEvents(settings.chaincode, { startBlock: blockNumber, checkpoint: checkpointer });
    const seen = [];
    for await (const event of before) {
      seen.push(pick(event));
      await checkpointer.checkpointChaincodeEvent(event);
      if (seen.length === 2) break;
    }
    before.close();
    const resumed = await gateway.checkpointers.file(file);
    const after = await network.getChaincodeEvents(settings.chaincode, { startBlock: BigInt(0), checkpoint: resumed });
    const rest = take(after, 2, pick);
    await contract.submitTransaction('Run', run(['emit', 'fourth', 'live']));
    return { seen, rest: await rest };
  },

  async blocks(contract, network) {
    const commit = await contract.submitAsync('Run', {
      arguments: [run(['putPrivate', 'shared', 'block', 'value'])],
      transientData: { value: Buffer.from('private') },
    });
    const { blockNumber, transactionId } = await commit.getStatus();
    const number = (block) => Number(block.getHeader().getNumber());
    const all = await take(await network.getBlockEvents({ startBlock: BigInt(0) }), 3, number);
    const filtered = await take(await network.getFilteredBlockEvents({ startBlock: blockNumber }), 1, (block) => ({
      number: Number(block.getNumber()),
      channel: block.getChannelId(),
      transactions: block.getFilteredTransactionsList().map((one) => [one.getTxid(), one.getTxValidationCode()]),
    }));
    const withPrivate = await take(
      await network.getBlockAndPrivateDataEvents({ startBlock: blockNumber }),
      1,
      (answer) => {
        const sets = answer.getPrivateDataMapMap().get(0).getNsPvtRwsetList();
        return {
          number: number(answer.getBlock()),
          collections: sets.flatMap((set) => set.getCollectionPvtRwsetList().map((one) => one.getCollectionName())),
        };
      },
    );
    return { all, filtered, withPrivate, block: Number(blockNumber), transactionId };
  },

  async errors(contract, network, client) {
    const other = network.getContract('nothing');
    const refuse = run(['refuse', 'BFL104 round 7 is closed']);
    const read = (await contract.submitTransaction('Run', run(['put', 'hot', '0'])), run(['get', 'hot'], ['put', 'hot', '1']));
    const first = await contract.newProposal('Run', { arguments: [read] }).endorse();
    const second = await contract.newProposal('Run', { arguments: [read] }).endorse();
    await (await first.submit()).getStatus();
    const lost = await (await second.submit()).getStatus();
    const stranger = open(client, { identity: { mspId: 'stranger', credentials: identity.credentials } });
    const foreign = stranger.getNetwork(settings.channel).getContract(settings.chaincode);
    return {
      evaluate: await caught(() => contract.evaluateTransaction('Run', refuse)),
      endorse: await caught(() => contract.submitTransaction('Run', refuse)),
      unknownChaincode: await caught(() => other.evaluateTransaction('Run', '[]')),
      unknownOrganisation: await caught(() =>
        contract.submit('Run', { arguments: ['[]'], endorsingOrganizations: ['nobody'] })),
      stranger: await caught(() => foreign.evaluateTransaction('Run', '[]')),
      lost: { code: lost.code, successful: lost.successful },
      commit: await caught(async () => {
        const one = await contract.newProposal('Run', { arguments: [read] }).endorse();
        await contract.submitTransaction('Run', run(['put', 'hot', '2']));
        const status = await (await one.submit()).getStatus();
        if (!status.successful) throw Object.assign(new Error(`code ${status.code}`), { code: status.code });
        return '';
      }),
    };
  },

  // What a client is told, word for word, when something is wrong.
  async words(contract, network, client) {
    const refuse = run(['refuse', 'BFL104 round 7 is closed']);
    const elsewhere = open(client).getNetwork('elsewhere');
    const nothing = network.getContract('nothing');
    const foreign = elsewhere.getContract(settings.chaincode);
    const online = gateway.connect({ client, identity, hash: gateway.hash.sha256 });
    const remote = online.getNetwork(settings.channel).getContract(settings.chaincode);
    const wrong = await sign(Buffer.alloc(32));
    const propose = () => remote.newProposal('Run', { arguments: [run(['put', 'words', '1'])] });
    const forgedProposal = () => online.newSignedProposal(propose().getBytes(), wrong);
    const signedProposal = async () => {
      const made = propose();
      return online.newSignedProposal(made.getBytes(), await sign(made.getDigest()));
    };
    const forgedTransaction = async () => online.newSignedTransaction((await (await signedProposal()).endorse()).getBytes(), wrong);
    const first = async (iterable) => JSON.stringify(await take(await iterable, 1, () => 'one'));
    const forged = (request, rebuild) => rebuild.call(online, request.getBytes(), wrong).getEvents();
    const submitted = await (await contract.newProposal('Run', { arguments: [run(['put', 'words', '0'])] }).endorse()).submit();
    await submitted.getStatus();
    const onlineNetwork = online.getNetwork(settings.channel);
    return {
      'no signer': await caught(() => propose().evaluate()),
      'the contract refuses, evaluated': await caught(() => contract.evaluateTransaction('Run', refuse)),
      'the contract refuses, endorsed': await caught(() => contract.submitTransaction('Run', refuse)),
      'named organisations refuse': await caught(() =>
        contract.submit('Run', { arguments: [refuse], endorsingOrganizations: ['beta', 'gamma'] })),
      'no such function': await caught(() => contract.evaluateTransaction('Nothing')),
      'no arguments': await caught(() => contract.submitTransaction('Run')),
      'no such chaincode, evaluated': await caught(() => nothing.evaluateTransaction('Run', '[]')),
      'no such chaincode, endorsed': await caught(() => nothing.submitTransaction('Run', '[]')),
      'no such chaincode, named organisation': await caught(() =>
        nothing.submit('Run', { arguments: ['[]'], endorsingOrganizations: ['beta'] })),
      'no such organisation, evaluated': await caught(() =>
        contract.evaluate('Run', { arguments: ['[]'], endorsingOrganizations: ['nobody'] })),
      'no such organisation, endorsed': await caught(() =>
        contract.submit('Run', { arguments: ['[]'], endorsingOrganizations: ['nobody'] })),
      'another channel, evaluated': await caught(() => foreign.evaluateTransaction('Run', '[]')),
      'another channel, endorsed': await caught(() => foreign.submitTransaction('Run', '[]')),
      'another channel, events': await caught(() => first(elsewhere.getChaincodeEvents(settings.chaincode))),
      'another channel, blocks': await caught(() => first(elsewhere.getBlockEvents({ startBlock: BigInt(0) }))),
      'a wrong signature, evaluated': await caught(() => forgedProposal().evaluate()),
      'a wrong signature, endorsed': await caught(() => forgedProposal().endorse()),
      'a wrong signature, submitted': await caught(async () => (await forgedTransaction()).submit()),
      'a wrong signature, commit status': await caught(() =>
        online.newSignedCommit(submitted.getBytes(), wrong).getStatus()),
      'a wrong signature, events': await caught(() =>
        first(forged(onlineNetwork.newChaincodeEventsRequest(settings.chaincode), online.newSignedChaincodeEventsRequest))),
      'a wrong signature, blocks': await caught(() =>
        first(forged(onlineNetwork.newBlockEventsRequest({ startBlock: BigInt(0) }), online.newSignedBlockEventsRequest))),
      'a wrong signature, filtered blocks': await caught(() =>
        first(forged(onlineNetwork.newFilteredBlockEventsRequest({ startBlock: BigInt(0) }), online.newSignedFilteredBlockEventsRequest))),
    };
  },

  // What filtered blocks show of a block with an event, and of one whose transaction is invalid.
  async filtered(contract, network) {
    const read = run(['get', 'warm'], ['put', 'warm', '1'], ['emit', 'lost', 'payload']);
    const first = await contract.newProposal('Run', { arguments: [read] }).endorse();
    const second = await contract.newProposal('Run', { arguments: [read] }).endorse();
    const { blockNumber } = await (await first.submit()).getStatus();
    await (await second.submit()).getStatus();
    return take(await network.getFilteredBlockEvents({ startBlock: blockNumber }), 2, (block) =>
      block.getFilteredTransactionsList().map((one) => ({
        code: one.getTxValidationCode(),
        type: one.getType(),
        mine: [first.getTransactionId(), second.getTransactionId()].indexOf(one.getTxid()),
        events: (one.getTransactionActions()?.getChaincodeActionsList() ?? []).map((action) => [
          action.getChaincodeEvent().getChaincodeId(),
          action.getChaincodeEvent().getEventName(),
          text(action.getChaincodeEvent().getPayload_asU8()),
        ]),
      })));
  },

  // A proposal that the Python client made goes on here, and its outcome is asked for there.
  async handover(contract, network, client) {
    const online = gateway.connect({ client, identity, hash: gateway.hash.sha256 });
    const unsigned = online.newProposal(Buffer.from(settings.proposal, 'hex'));
    const proposal = online.newSignedProposal(unsigned.getBytes(), await sign(unsigned.getDigest()));
    const endorsed = await proposal.endorse();
    const transaction = online.newSignedTransaction(endorsed.getBytes(), await sign(endorsed.getDigest()));
    const submitted = await transaction.submit();
    const events = network.newChaincodeEventsRequest(settings.chaincode, { startBlock: BigInt(0) });
    const blocks = network.newFilteredBlockEventsRequest({ startBlock: BigInt(0) });
    const hex = (bytes) => Buffer.from(bytes).toString('hex');
    return {
      id: transaction.getTransactionId(),
      result: text(transaction.getResult()),
      commit: hex(submitted.getBytes()),
      events: hex(events.getBytes()),
      blocks: hex(blocks.getBytes()),
    };
  },

  async parallel(contract) {
    const results = await Promise.all(
      Array.from({ length: 16 }, (_, index) =>
        contract.submitTransaction('Run', run(['put', `parallel${index}`, `${index}`])).then(text)),
    );
    const listed = await contract.evaluateTransaction('Run', run(['list', 'parallel', 'parallel~']));
    return { results, count: JSON.parse(text(listed))[0].length };
  },
};

async function main() {
  const client = new grpc.Client(settings.address, grpc.credentials.createSsl(Buffer.from(settings.tlsRoots)), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
  });
  const connection = open(client);
  try {
    const network = connection.getNetwork(settings.channel);
    const contract = network.getContract(settings.chaincode);
    console.log(JSON.stringify(await scenarios[process.argv[3]](contract, network, client)));
  } finally {
    connection.close();
    client.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
