// Keeps SIGPIPE from ending the process while a PKCS#11 module is called.
//
// p11-kit's client module writes to its socket with write(2): when the server's child is gone, the signal
// arrives before any return code does. Blocked for the calling thread only, and taken away again, so that the
// rest of the program, and the programs it starts, see no change.
//
// An object belongs to the thread that made it. Objects of one thread may end in any order.
#pragma once

namespace sealift::hsm {

class PipeSignalHeld {
 public:
  PipeSignalHeld();
  PipeSignalHeld(PipeSignalHeld&& other) noexcept;
  PipeSignalHeld& operator=(PipeSignalHeld&&) = delete;
  ~PipeSignalHeld();

 private:
  bool holds_ = true;
};

}  // namespace sealift::hsm
