'use strict';
// The same contract as tests/support/operations_contract.py, on the official chaincode library.
// Run takes a list of operations, [verb, argument...], and returns the list of their results.

const { Contract } = require('fabric-contract-api');
const { KeyEndorsementPolicy } = require('fabric-shim');

const hex = (bytes) => (bytes && bytes.length ? Buffer.from(bytes).toString('hex') : null);

async function collect(iterator, limit = Infinity) {
  const rows = [];
  for await (const row of iterator) {
    rows.push([row.key, hex(row.value)]);
    if (rows.length === limit) break;
  }
  return rows;
}

function policyOf(organisations) {
  const policy = new KeyEndorsementPolicy();
  policy.addOrgs('PEER', ...organisations);
  return policy.getPolicy();
}

const VERBS = {
  put: (stub, key, text) => stub.putState(key, Buffer.from(text)),
  get: async (stub, key) => hex(await stub.getState(key)),
  delete: (stub, key) => stub.deleteState(key),
  list: (stub, start, end) => collect(stub.getStateByRange(start, end)),
  head: (stub, start, end, limit) => collect(stub.getStateByRange(start, end), limit),
  page: async (stub, start, end, size, bookmark) => {
    const { iterator, metadata } = await stub.getStateByRangeWithPagination(start, end, size, bookmark);
    const rows = [];
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) {
      rows.push([next.value.key, hex(next.value.value)]);
    }
    await iterator.close();
    return [rows, metadata.bookmark];
  },
  protect: (stub, key, ...organisations) => stub.setStateValidationParameter(key, policyOf(organisations)),
  protection: async (stub, key) => hex(await stub.getStateValidationParameter(key)),
  putPrivate: (stub, collection, key, name) =>
    stub.putPrivateData(collection, key, Buffer.from(stub.getTransient().get(name))),
  getPrivate: async (stub, collection, key) => hex(await stub.getPrivateData(collection, key)),
  deletePrivate: (stub, collection, key) => stub.deletePrivateData(collection, key),
  purgePrivate: (stub, collection, key) => stub.purgePrivateData(collection, key),
  hashPrivate: async (stub, collection, key) => hex(await stub.getPrivateDataHash(collection, key)),
  listPrivate: (stub, collection, start, end) => collect(stub.getPrivateDataByRange(collection, start, end)),
  protectPrivate: (stub, collection, key, ...organisations) =>
    stub.setPrivateDataValidationParameter(collection, key, policyOf(organisations)),
  protectionPrivate: async (stub, collection, key) =>
    hex(await stub.getPrivateDataValidationParameter(collection, key)),
  emit: (stub, name, text) => stub.setEvent(name, Buffer.from(text)),
  creator: (stub) => stub.getCreator().mspid,
  channel: (stub) => stub.getChannelID(),
  call: async (stub, chaincode, ...args) => {
    const answer = await stub.invokeChaincode(chaincode, args, '');
    return [answer.status, Buffer.from(answer.payload).toString()];
  },
  refuse: (stub, text) => {
    throw new Error(text);
  },
};

class Operations extends Contract {
  async Run(context, list) {
    const results = [];
    for (const [verb, ...args] of JSON.parse(list)) {
      const result = await VERBS[verb](context.stub, ...args);
      results.push(result === undefined || Buffer.isBuffer(result) ? null : result);
    }
    return JSON.stringify(results);
  }
}

module.exports.contracts = [Operations];
