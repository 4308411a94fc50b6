// A machine's firmware as its event log has it, to be varied in one place: model, disk, settings.
#pragma once

#include <string>
#include <vector>

#include "controller/attest/firmware.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_tpm.h"

namespace sealift::test {

// UEFI_VARIABLE_DATA of a variable of EFI_GLOBAL_VARIABLE.
inline Bytes GlobalVariable(std::string_view name, ByteView content) {
  ByteWriter data(ByteWriter::Endian::kLittle);
  data.Raw(HexDecode("61dfe48bca93d211aa0d00e098032b8c").value());
  data.U64(name.size());
  data.U64(content.size());
  data.Raw(Utf16Le(name));
  data.Raw(content);
  return std::move(data).Finish();
}

// EFI_LOAD_OPTION that starts a file from the partition `disk`.
inline Bytes LoadOption(std::string_view name, std::string_view disk) {
  ByteWriter path(ByteWriter::Endian::kLittle);
  path.U8(4);
  path.U8(1);
  path.U16(static_cast<std::uint16_t>(4 + disk.size()));
  path.Raw(AsBytes(disk));
  path.U32(0x0004FF7F);
  const Bytes nodes = std::move(path).Finish();
  ByteWriter option(ByteWriter::Endian::kLittle);
  option.U32(1);
  option.U16(static_cast<std::uint16_t>(nodes.size()));
  option.Raw(Utf16Le(name));
  option.U16(0);
  option.Raw(nodes);
  return std::move(option).Finish();
}

struct FirmwareLog {
  struct Event {
    std::uint32_t pcr;
    std::uint32_t type;
    Bytes data;
    // Of what the digest is; empty: of the data.
    Bytes measured;
  };
  static constexpr std::uint32_t kHandoffTables2 = 0x8000000B;

  std::vector<Event> events;

  // As a machine with this disk boots.
  static FirmwareLog Of(const std::string& firmware, const std::string& disk, const std::string& serial) {
    FirmwareLog log;
    log.Add(0, tpm::kEvCrtmVersion, "version " + firmware);
    log.Add(0, tpm::kEvEfiPlatformFirmwareBlob, "blob of " + firmware);
    log.Add(1, tpm::kEvEfiVariableDriverConfig, "setup: virtualisation on");
    log.events.push_back(
        {1, kHandoffTables2, ToBytes(AsBytes("SMBIOS")), ToBytes(AsBytes("serial " + serial))});
    log.events.push_back({1, tpm::kEvEfiVariableBoot, GlobalVariable("BootOrder", Bytes{1, 0, 0, 0}), {}});
    log.events.push_back(
        {1, tpm::kEvEfiVariableBoot, GlobalVariable("Boot0001", LoadOption("disk", disk)), {}});
    log.Add(2, tpm::kEvEfiBootServicesDriver, "network card's driver");
    for (const std::uint32_t pcr : {0u, 1u, 2u, 3u})
      log.events.push_back({pcr, tpm::kEvSeparator, Bytes(4, 0), {}});
    return log;
  }
  void Add(std::uint32_t pcr, std::uint32_t type, const std::string& data) {
    events.push_back({pcr, type, ToBytes(AsBytes(data)), {}});
  }
  Bytes bytes() const {
    EventLogWriter writer;
    for (const Event& event : events) {
      writer.Event(event.pcr, event.type, Sha256(event.measured.empty() ? event.data : event.measured).view(),
                   event.data);
    }
    return writer.bytes();
  }
  controller::FirmwareMeasurement Measure() const {
    tpm::EventLog log = tpm::EventLog::Parse(bytes()).value();
    tpm::PcrValues registers;
    const tpm::PcrValues replayed = log.Replay();
    for (const std::uint32_t pcr : controller::kFirmwarePcrs) registers[pcr] = replayed.at(pcr);
    return {.registers = registers, .explained = {0, 1, 2, 3}, .log = std::move(log)};
  }
};

// The log as a file.
inline Bytes BytesOf(const tpm::EventLog& log) {
  EventLogWriter writer;
  for (const tpm::Event& event : log.events())
    writer.Event(event.pcr, event.type, event.digests.at(tpm::kAlgSha256), event.data);
  return writer.bytes();
}

// The same boot on a machine whose first piece of firmware is another one.
inline MeasuredBoot WithFirmware(MeasuredBoot boot, const std::string& blob) {
  EventLogWriter writer;
  bool changed = false;
  for (const tpm::Event& event : boot.log.events()) {
    const bool here = !changed && event.pcr == 0 && event.type == tpm::kEvEfiPlatformFirmwareBlob;
    changed = changed || here;
    writer.Event(event.pcr, event.type,
                 here ? ToBytes(Sha256(AsBytes(blob)).view()) : event.digests.at(tpm::kAlgSha256),
                 event.data);
  }
  boot.log = tpm::EventLog::Parse(writer.bytes()).value();
  boot.pcrs[0] = boot.log.Replay().at(0);
  return boot;
}

}  // namespace sealift::test
